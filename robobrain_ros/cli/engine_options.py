"""The argument ``--engine NAME=VALUE`` of the command line programs."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any


def add_engine_argument(
    parser: "argparse.ArgumentParser | argparse._ArgumentGroup", reserved: Callable[[str], bool], of_models: bool = False
) -> None:
    """Add ``--engine NAME=VALUE``, whose value is a list of pairs (name, value), and ``--model-profile``.

    :param reserved: returns whether the program itself sets the option with this name.
    :param of_models: also accept the options of one of several models, as in ``--engine MODEL.NAME=VALUE`` and
        ``--model-profile MODEL=NAME``. The value of ``--model-profile`` is then a list of texts.
    """
    one_of_several = " With --bag, MODEL.NAME=VALUE is for one model" if of_models else ""
    parser.add_argument(
        "--engine",
        action="append",
        type=partial(_engine_option, reserved=reserved, of_models=of_models),
        default=[],
        metavar="NAME=VALUE",
        help="engine option without the prefix engine., such as gpu_memory_utilization=0.6; repeatable "
        f"(docs/reference/parameters.md){'.' if of_models else ''}{one_of_several}",
    )
    several: dict[str, Any] = {"action": "append", "default": []} if of_models else {"default": "auto"}
    parser.add_argument(
        "--model-profile",
        metavar="NAME",
        help="profile of the model family, such as rynnbrain (docs/reference/models.md; default: identify the checkpoint)"
        + (". With --bag, MODEL=NAME is for one model" if of_models else ""),
        **several,
    )


def is_reserved(name: str) -> bool:
    """Return whether the programs that compare operators set this engine option themselves."""
    return name == "model" or (name.startswith("flagos_") and name != "flagos_platform")


def _engine_option(text: str, reserved: Callable[[str], bool], of_models: bool = False) -> tuple[str, Any]:
    """Return the name and the value of an option. The value is parsed as YAML, except for options of type text."""
    import yaml

    from robobrain_ros.engine.options import option_fields

    full_name, separator, value = text.partition("=")
    model, _, name = full_name.rpartition(".") if of_models else ("", "", full_name)
    if not separator or name not in option_fields() or (not model and reserved(name)):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE with the name of an engine option")
    is_text = isinstance(option_fields()[name].default, str)
    if is_text:
        return full_name, value
    try:
        return full_name, yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"the value of {name} is not YAML") from error
