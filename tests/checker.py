"""The type checker of test runs: beartype, taking an int where a float is asked (PEP 484)."""

from beartype import BeartypeConf, beartype

typechecked = beartype(conf=BeartypeConf(is_pep484_tower=True))
