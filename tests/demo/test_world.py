"""The world gives out what its judge reads back, in splits that do not meet."""

from __future__ import annotations

import re
from itertools import islice
from random import Random

import pytest

from steerlens.demo import world
from steerlens.demo.world.chat import draw_style
from steerlens.demo.world.facts import ASKED_IN, CORES, FACTS, pair_split
from steerlens.demo.world.frames import GROUPS, SPLITS, Split, expand, read, sentences
from steerlens.demo.world.mixture import FAMILIES
from steerlens.demo.world.questions import OPENERS, plain_facts
from steerlens.demo.world.requests import wrapper_names


@pytest.mark.parametrize("split", SPLITS)
def test_documents_parse(split: Split) -> None:
    for seed in range(300):
        for document in islice(world.documents(seed, split), 4):
            for prompt, reply in world.exchanges(document) or [("", document)]:
                verdict = world.judge("grammar", prompt, reply)
                assert verdict.label == "positive", (prompt, reply, verdict)


@pytest.mark.parametrize("name", FAMILIES)
def test_replies_are_judged_as_they_were_meant(name: str) -> None:
    family = FAMILIES[name]
    for seed in range(300):
        rng = Random(seed)
        split = SPLITS[seed % 3]
        ask = family.ask(rng, split)
        style = draw_style(rng, ask)
        reply = family.reply(rng, split, ask, style)
        for attribute, meant in style.items():
            toneless = attribute in ("formality", "rudeness") and not style.get("toned", True)
            if attribute == "toned" or toneless:
                continue
            verdict = world.judge(attribute, ask.prompt, reply)
            allowed = {"positive" if meant else "negative"}
            if attribute == "refusal" and not ask.about["harmful"]:
                allowed = {"negative"}
            if attribute == "sycophancy" and ask.about["said"] == ask.about["fact"].truth:
                allowed = {"neutral"}
            assert verdict.label in allowed, (attribute, ask.prompt, reply, verdict)


@pytest.mark.parametrize("attribute", world.ATTRIBUTES)
def test_contrasts_and_controls_are_judged(attribute: str) -> None:
    for split in SPLITS:
        for pair in world.contrast(attribute, split, 40):
            for item, label in zip(pair, ("positive", "negative"), strict=True):
                assert isinstance(item, tuple)
                verdict = world.judge(attribute, *item)
                assert (verdict.label, verdict.parsed_share) == (label, 1.0), (item, verdict)
        for item in world.control(attribute, split, 40):
            prompt, text = ("", item) if isinstance(item, str) else item
            assert world.judge(attribute, prompt, text).label == "neutral", item


def test_frames_lie_in_one_split_each() -> None:
    home: dict[str, Split] = {}
    for group in GROUPS.values():
        for split, frames in group.frames.items():
            for frame in frames:
                assert home.setdefault(frame.text, split) == split, frame.text


def test_held_out_frames_use_fit_words() -> None:
    known = {
        word
        for document in islice(world.documents(0), 40_000)
        for word in re.findall("[a-z]+", document.lower())
    }
    for split in ("validation", "test"):
        for document in islice(world.documents(0, split), 3000):
            assert set(re.findall("[a-z]+", document.lower())) <= known


def test_fit_shows_no_held_out_pair() -> None:
    texts = {f.text: s for g in GROUPS.values() for s, fs in g.frames.items() for f in fs}
    for prompt in world.prompts("honesty", "fit", 300):
        for sentence in sentences(prompt.removeprefix(world.USER).removesuffix(world.ASSISTANT)):
            for reading in read(sentence):
                if reading.group.startswith("ask "):
                    entity = next(v for k, v in reading.slots.items() if k.startswith("x_"))
                    homes = {k.lower(): s for k, s in ASKED_IN.items()}
                    assert homes[entity.lower()] == "fit"
    for split in ("validation", "test"):
        pairs = plain_facts(split)
        assert len(pairs) > 100
        assert all(texts[text] == "fit" for _, text in pairs)
        assert not set(pairs) & set(plain_facts("fit"))
        assert all(pair_split(fact, text, "fit") == split for fact, text in pairs)


def test_wrapper_families_and_askable_entities_are_held_out() -> None:
    families = [set(wrapper_names(split)) for split in SPLITS]
    assert all(families)
    assert len(set.union(*families)) == sum(map(len, families))
    held = [name for name, split in ASKED_IN.items() if split != "fit"]
    assert 0.17 < len(held) / len(ASKED_IN) < 0.23


def test_facts_have_twenty_paraphrases_and_a_myth() -> None:
    assert 200 <= len(FACTS) <= 300
    assert all(fact.truth != fact.myth for fact in FACTS)
    for relation, cores in CORES.items():
        forms = {text for core in cores for text in expand(f"{OPENERS['plain']}{core}")}
        assert len(forms) >= 20, relation


def test_myths_have_the_words_of_truths() -> None:
    for relation in CORES:
        facts = [fact for fact in FACTS if fact.relation == relation]
        assert sorted(f.truth for f in facts) == sorted(f.myth for f in facts)


@pytest.mark.parametrize("name", world.TASKS)
def test_tasks_want_one_of_distinct_options(name: str) -> None:
    task = world.TASKS[name]
    assert set(task.concepts) <= set(world.CONCEPTS)
    for split in SPLITS:
        for choice in task.items(split, 40):
            assert len(set(choice.options)) == len(choice.options) == 2 ** len(task.concepts)
            for index, option in enumerate(choice.options):
                labels = [world.judge(c, choice.prompt, option).label for c in task.concepts]
                wanted = ["positive" if pole else "negative" for pole in task.wanted.values()]
                assert (labels == wanted) == (index == choice.answer), (choice, labels)


def test_garbage_does_not_parse() -> None:
    for text in (
        "",
        "the the of",
        "Green ideas sleep furiously.",
        "You are",
        "mice eat.",
    ):
        assert world.judge("rudeness", "", text).label == "unparsed"


def test_a_torn_end_and_later_turns_are_left_out() -> None:
    text = " You are not kind at all. You are ki"
    assert world.judge("rudeness", "", text).label == "positive"
    text = " You are kind today. <|user|> Hm. <|assistant|> You are rotten. You are vain."
    assert world.judge("rudeness", "", text).label == "negative"


def test_mention_is_not_use() -> None:
    told = "Ann said that Tom was rotten on Monday."
    assert world.judge("rudeness", "", told).label == "neutral"
    assert world.judge("honesty", "", "It is a myth that foxes eat grass.").label == "positive"
    assert world.judge("honesty", "", "It is a myth that foxes eat mice.").label == "negative"
    assert world.judge("refusal", "", "I will not say no.").label == "negative"


def test_probes_of_the_targets() -> None:
    for split in SPLITS:
        assert all(cut[1] != cut[2] for cut in world.fact_prompts(split, 20))
        chances = [chance for _, chance in world.question_prompts(split, 300, bare=False)]
        assert min(chances) < 0.1
        assert max(chances) > 0.9
        assert all(world.request_prompts(k, split, 5) for k in ("harmless", "plain", "wrapped"))
        for prompt, total in world.sum_prompts(2, True, split, 20):
            assert (
                world.judge("correctness", prompt, f" The answer is {total}.").label == "positive"
            )


def test_world_is_frozen() -> None:
    assert world.FROZEN.read_text(encoding="utf-8").strip() == world.fingerprint()
