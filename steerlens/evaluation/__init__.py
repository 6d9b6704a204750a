"""Evaluation: completions under a steering beside base ones, their cost in nats, their score."""

from steerlens.evaluation.comparison import Comparison as Comparison
from steerlens.evaluation.comparison import compare as compare
from steerlens.evaluation.generation import Completion as Completion
from steerlens.evaluation.generation import completions as completions
from steerlens.evaluation.scoring import divergence as divergence
from steerlens.evaluation.scoring import log_probability as log_probability
from steerlens.evaluation.scoring import perplexity as perplexity
