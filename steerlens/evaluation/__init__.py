"""Evaluation: completions under a steering, what they cost in nats, and what they score."""

from steerlens.evaluation.generation import Completion as Completion
from steerlens.evaluation.generation import completions as completions
from steerlens.evaluation.scoring import divergence as divergence
from steerlens.evaluation.scoring import log_probability as log_probability
from steerlens.evaluation.scoring import perplexity as perplexity
