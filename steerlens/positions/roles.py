"""Selectors by speaker: the tokens of a role's messages, as the chat template marks them.

The template is rendered with placeholders for contents, once a session: the text before one is
its role's header, the text after it the footer. Every header ends the message before it, so
the messages of a role are found in any text that is written like the template, generated or not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from steerlens.errors import BadInputError
from steerlens.host import need_tokenizer
from steerlens.positions.combining import Combining
from steerlens.positions.phrases import Phrase
from steerlens.positions.reading import RowText, follow
from steerlens.positions.window import Mask, Window
from steerlens.text import Spelling

_OTHERS = ("system", "tool", "developer")
"""Roles whose messages end others, in templates that know them."""


@dataclass(frozen=True)
class Marker:
    """A text after which a role speaks, or, as a footer, nobody."""

    phrase: str
    """The marker without the white space around it, which tokens share with their neighbours."""
    speaker: str | None
    """The role that speaks after a header."""
    ends: str | None = None
    """The role whose message a footer ends; no other is."""
    space: str = ""
    """White space that belongs to a header before the message begins."""


@dataclass(frozen=True)
class Role(Combining):
    """The tokens of a role's messages."""

    name: str

    def __call__(self, window: Window) -> Mask:
        """Return the tokens between the role's header and the end of its message."""
        if self not in window.cache:
            window.cache[self] = learn(need_tokenizer(window.model, repr(self)), self.name)
        markers = window.cache[self]
        return follow(window, self, lambda: _Speaking(self.name, markers))

    def __repr__(self) -> str:
        """Return the call that makes it."""
        return f"role({self.name!r})"


def role(name: str) -> Role:
    """Return a selector of the tokens of a role's messages, found by the tokenizer's chat template.

    Picked are the tokens after the role's header and before the token that completes its footer
    or the next header of any role. If these take several tokens, all but the last are picked: it
    is not known yet what they begin. A pass raises BadInputError where the tokenizer has no chat
    template, or the template refuses the role or marks it like another.

    >>> question = {"role": "user", "content": "A good day"}
    >>> answer = {"role": "assistant", "content": "A day"}
    >>> sl.positions.role("assistant").show(model, [question, answer])
    2 of 9 tokens: <s><|user|> A good day <|assistant|>[ A][ day]
    """
    return Role(name)


def learn(tokenizer: Any, name: str) -> tuple[Marker, ...]:
    """Return the markers of all roles that the template knows, longest first.

    Raises BadInputError where `name` cannot be told by them.
    """
    if not tokenizer.chat_template:
        raise BadInputError(
            f"role({name!r}) needs a chat template and the model's tokenizer has none. Set "
            "model.tokenizer.chat_template."
        )
    template = _Template(tokenizer)
    markers = template.conversation()
    for other in dict.fromkeys((name, *_OTHERS)):
        try:
            markers += [] if other in ("user", "assistant") else template.other(other, markers)
        except BadInputError:
            if other == name:
                raise
    headers = {marker.phrase for marker in markers if marker.speaker == name}
    others = {marker.phrase for marker in markers if marker.speaker not in (None, name)}
    if not headers or "" in headers or headers & others:
        raise BadInputError(
            f"The chat template does not tell messages of the role {name!r} from others: nothing "
            "stands before them, or what stands before another role's."
        )
    useful = dict.fromkeys(marker for marker in markers if marker.phrase)
    return tuple(sorted(useful, key=lambda each: (-len(each.phrase), each.speaker is None)))


class _Speaking:
    """Follows a row: who speaks, and whether the message has begun."""

    def __init__(self, role: str, markers: Sequence[Marker]) -> None:
        self.role, self.markers = role, markers
        self.phrases = [Phrase(marker.phrase) for marker in markers]
        self.latest: Marker | None = None
        self.since = 0
        """Where the latest marker ends."""
        self.begun = False

    def __call__(self, text: str, begin: int, end: int) -> bool:
        while found := self._next(text, max(begin, self.since), end):
            self.since, self.latest = found
            self.begun = False
        if self.latest is None or self.latest.speaker != self.role:
            return False
        if not self.begun:
            space = _alike(text[self.since : end], self.latest.space)
            self.begun = begin == end or end > self.since + space
        return self.begun

    def _next(self, text: str, begin: int, end: int) -> tuple[int, Marker] | None:
        """Where the next marker ends, and which it is: of several the longest."""
        speaker = None if self.latest is None else self.latest.speaker
        ends = [
            (found, marker)
            for marker, phrase in zip(self.markers, self.phrases, strict=True)
            if marker.ends in (None, speaker)
            and (found := phrase.completed(text, begin, end)) is not None
        ]
        return min(ends, key=lambda each: each[0], default=None)


# Learning


class _Template:
    """A chat template, learnt from by rendering it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.bos: str = tokenizer.bos_token or ""
        self.spelling = Spelling(tokenizer)

    def conversation(self) -> list[Marker]:
        """Markers of user and assistant, from a question, its answer, and another question."""
        asked, answered = self.gaps("user"), self.gaps("user", "assistant")
        _, to_answer, to_question, _ = self.gaps("user", "assistant", "user")
        user_footer, assistant = self.divided(to_answer, asked[-1])
        assistant_footer, user = self.divided(to_question, answered[-1])
        return [
            self.header(user, "user"),
            self.header(assistant, "assistant"),
            self.footer(user_footer, "user"),
            self.footer(assistant_footer, "assistant"),
        ]

    def other(self, name: str, known: Sequence[Marker]) -> list[Marker]:
        """Markers of a role that conversations do without: within one, else before it.

        None where its messages begin like those of a role that is known.
        """
        user = next(marker for marker in known if marker.speaker == "user")
        try:
            answered = self.gaps("user", "assistant")
            _, _, gap, after, _ = self.gaps("user", "assistant", name, "user")
            _, before = self.divided(gap, answered[-1])
        except BadInputError:
            before, after, _ = self.gaps(name, "user")
        header = self.header(before, name)
        if not header.phrase or header.phrase in {marker.phrase for marker in known}:
            return []
        after = self.spelt(after)
        if user.phrase in after:
            return [header, Marker(after.rpartition(user.phrase)[0].strip(), None, ends=name)]
        return [header, self.header(after, "user")] if after else [header]

    def gaps(self, *roles: str) -> list[str]:
        """The text before, between and after the contents of messages of these roles."""
        contents = [f"Content{n}Here" for n in range(len(roles))]
        messages = [
            {"role": role, "content": content}
            for role, content in zip(roles, contents, strict=True)
        ]
        named = ", ".join(roles)
        try:
            rest = str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        except Exception as error:  # a template may raise anything
            raise BadInputError(
                f"The chat template refuses messages of the roles {named}: {error}"
            ) from error
        gaps = []
        for content in contents:
            gap, found, rest = rest.partition(content)
            if not found or content in rest:
                raise BadInputError(
                    f"The chat template drops or repeats a message of the roles {named}."
                )
            gaps.append(gap)
        return [*gaps, rest]

    def divided(self, gap: str, tail: str) -> tuple[str, str]:
        """What ends one message in a gap, and what begins the next.

        The end is what stands also at the end of a text, where some templates add EOS. Where
        nothing follows it, as after `[/INST]`, all of the gap is both.
        """
        special = sorted(map(re.escape, self.tokenizer.get_added_vocab()), key=len, reverse=True)
        cut = re.compile(f"({'|'.join(special)})") if special else re.compile("(?!)")
        parts, others = cut.split(gap), cut.split(tail)
        end = tail if gap.startswith(tail) else "".join(parts[: _alike(parts, others)])
        rest = gap[len(end) :]
        return end, rest if rest.strip().removeprefix(self.bos).strip() else gap

    def header(self, gap: str, role: str) -> Marker:
        """The header that a gap ends with."""
        phrase = gap.strip().removeprefix(self.bos)
        return Marker(self.spelt(phrase), role, space=gap[len(gap.rstrip()) :])

    def footer(self, gap: str, role: str) -> Marker:
        """The footer of a role's messages."""
        return Marker(self.spelt(gap), None, ends=role)

    def spelt(self, text: str) -> str:
        """The text as it comes back from tokens, which may add or drop spaces."""
        row = RowText(self.spelling)
        ids = self.tokenizer(text.strip(), add_special_tokens=False)["input_ids"]
        row.extend(ids, opens_with_bos=False)
        return row.text.strip()


def _alike(first: Sequence[str], second: Sequence[str]) -> int:
    """How many leading items two sequences share."""
    pairs = zip(first, second, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
