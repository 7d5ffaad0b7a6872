"""What comes from outside as settings: bounds of a config's fields, YAML files, JSON texts and plain JSON values."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mlxrlhf.errors import UserError

#: a whole number that every library takes, as a seed and as a size
LARGEST_INTEGER = 2**63 - 1
#: the largest number of rows, steps or tokens: beyond it nothing could be counted out
LARGEST_COUNT = 2**31 - 1
#: the range of float32, in which every setting is used
LARGEST_FLOAT, SMALLEST_FLOAT = 3.4e38, 1.2e-38
#: how deep JSON may be nested: half of what Python's own recursion allows, so that whatever walks it later can
DEEPEST = 200


# --- the fields of a config ------------------------------------------------------------------------------------------


def validate(config: Any) -> None:
    """Raise UserError for the first field out of its bounds or of what 64 bits hold, named by its flag."""
    for f in fields(config):
        value, flag = getattr(config, f.name), "--" + f.name.replace("_", "-")
        if type(f.default) in (int, float):
            check_number(value, flag)
            if type(f.default) is int and not isinstance(value, int):
                raise UserError(f"{flag} is {value}; it must be a whole number")
        minimum, above, maximum = (f.metadata.get(name) for name in ("minimum", "above", "maximum"))
        if maximum is None and type(f.default) is int:
            maximum = LARGEST_COUNT
        if minimum is not None and value < minimum:
            raise UserError(f"{flag} is {value}; it must be at least {_plain(minimum)}")
        if above is not None and value <= above:
            raise UserError(f"{flag} is {value}; it must be above {_plain(above)}")
        if maximum is not None and value > maximum:
            raise UserError(f"{flag} is {value}; it must be at most {_plain(maximum)}")
        choices = f.metadata.get("choices")
        if choices and value not in choices and value != f.default:
            raise UserError(f"{flag} is {value!r}; choose one of {', '.join(map(str, choices))}")


def _plain(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def check_number(value: Any, name: str) -> float:
    """`value`. Raises UserError unless it is a number that 64 bits, or float32 where it is no whole one, can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{name} is {shown(value)}; it must be a number")
    if isinstance(value, int):
        if abs(value) > LARGEST_INTEGER:
            raise UserError(f"{name} is {shown(value)}; it must be below 2 to the power of 63")
    elif not math.isfinite(value):
        raise UserError(f"{name} is {value}; it must be a finite number")
    elif abs(value) > LARGEST_FLOAT:
        raise UserError(f"{name} is {value:g}; it must be at most {LARGEST_FLOAT:g}")
    elif value and abs(value) < SMALLEST_FLOAT:
        raise UserError(f"{name} is {value:g}, which float32 rounds to 0; give 0, or at least {SMALLEST_FLOAT:g}")
    return value


def shown(value: Any) -> str:
    """A value in a message: short, whatever it is."""
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        return "a whole number too large for 64 bits"  # Python refuses to print the longest ones
    return reprlib.repr(value)


# --- YAML ------------------------------------------------------------------------------------------------------------


def read_yaml(path: Path, kind: type) -> dict[str, Any]:
    """The settings of a YAML file by field name of the config dataclass `kind`; dashes and underscores are the same.

    A value is read as the command line reads it: the field's type decides, not YAML's guess. So 1e-4 is a number, and
    2026-01-01 and off are text where text is wanted. Raises UserError, with the line, for a file that cannot be read, a
    name that is no flag or stands twice, and a value of another type.
    """
    import yaml

    text = read_text(path, f"--config {path}", "name a YAML file")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(f"--config {path} is not valid YAML ({' '.join(str(error).split())})") from None
    except RecursionError:
        raise UserError(f"--config {path} is nested too deeply; write lines such as `batch-size: 8`") from None
    except ValueError as error:
        raise UserError(f"--config {path} is not valid YAML ({error})") from None
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"--config {path} must hold lines such as `batch-size: 8`")
    wanted = {f.name: type(f.default) for f in fields(kind)}
    settings: dict[str, Any] = {}
    for key, value in root.value:
        place = f"{path}:{key.start_mark.line + 1}"
        flag = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
        name = flag.replace("-", "_")
        if name not in wanted:
            raise UserError(f"{place}: {flag[:60]} is no flag of this command; --help lists them")
        if name in settings:
            raise UserError(f"{place}: {flag} stands here a second time; leave one of them")
        if not isinstance(value, yaml.ScalarNode) or value.tag.endswith(":null"):
            raise UserError(f"{place}: {flag} must be one value of type {wanted[name].__name__}")
        settings[name] = _typed(value.value, wanted[name], value.tag.endswith(":bool"), f"{place}: {flag}")
    return settings


#: what YAML 1.1 takes for a truth value
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _typed(text: str, kind: type, is_truth: bool, name: str) -> Any:
    """`text` as a value of the field's type. YAML's own words for infinity and for no number are numbers that
    `validate` refuses."""
    try:
        if kind is bool:
            if not is_truth:
                raise ValueError
            return _TRUTH[text.lower()]
        if kind is float:
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if kind is int:
            return int(text) if text.lstrip("+-").replace("_", "").isdecimal() else _whole(float(text))
        return kind(text)
    except (ValueError, OverflowError):
        raise UserError(f"{name} is {shown(text)}; it must be a value of type {kind.__name__}") from None


def _whole(value: float) -> int:
    """1e3 is a whole number, 2.5 is none."""
    if value != int(value):
        raise ValueError
    return int(value)


# --- JSON ------------------------------------------------------------------------------------------------------------


def read_text(path: Path, name: str = "", remedy: str = "give an existing text file") -> str:
    """A UTF-8 text file, with or without a byte order mark. Raises UserError for any other."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name or path} is not UTF-8 text (byte {error.start}); convert it") from None
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{name or path} cannot be read ({reason}); {remedy}") from None


def read_json(path: Path, remedy: str = "restore it") -> dict[str, Any]:
    """The JSON object that a file holds. Raises UserError naming the file for anything else."""
    content = parse_json(read_text(path, remedy=remedy), str(path), remedy)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__} where an object is expected; {remedy}")
    return content


def parse_json(text: str, place: str, remedy: str = "correct it") -> Any:
    """One JSON value, as the standard has it: no NaN, no number that is not finite, no key twice, no half character.

    Raises UserError naming `place` for anything else, and for what is nested deeper than DEEPEST.
    """
    try:
        value = DECODER.decode(text)
        check_value(text, value)
    except RecursionError:
        raise UserError(f"{place} is nested too deeply to be read; {remedy}") from None
    except ValueError as error:
        raise UserError(f"{place} is not valid JSON ({error}); {remedy}") from None
    return value


def check_value(text: str, value: Any) -> None:
    """Raise ValueError where the value of a JSON text holds half a character or is nested too deeply.

    Only a text that could hold one is searched.
    """
    if "\\ud" in text or "\\uD" in text or text.count("{") + text.count("[") > DEEPEST:
        _search(value, DEEPEST)


def _search(value: Any, levels: int) -> None:
    if isinstance(value, str):
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ValueError("half a character: a \\ud... escape without its other half")
    elif isinstance(value, (dict, list)):
        if not levels:
            raise ValueError(f"nested deeper than {DEEPEST} levels")
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _search(key, levels)
            _search(inner, levels - 1)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number; null stands for what is missing")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is too large a number")
    return value


def _integer(text: str) -> int:
    if len(text) > 400:
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} stands twice in one object")
    return content


DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_integer
)


class Fields:
    """The fields of a JSON object by type. Each raises UserError for one that is missing or no such thing."""

    def __init__(self, path: Path, content: dict[str, Any], remedy: str = "restore it"):
        self.path, self.content, self.remedy = path, content, remedy

    def _get(self, name: str, default: Any) -> Any:
        value = self.content.get(name)
        value = default if value is None else value
        if value is None:
            raise UserError(f"{self.path} lacks {name}; {self.remedy}")
        return value

    def _wrong(self, name: str, wanted: str) -> UserError:
        return UserError(f"{self.path}: {name} is {shown(self.content.get(name))}, not {wanted}; {self.remedy}")

    def size(self, name: str, default: int | None = None) -> int:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= LARGEST_COUNT:
            raise self._wrong(name, "a whole number above 0")
        return value

    def count(self, name: str) -> int:
        value = self._get(name, None)
        return 0 if value == 0 and not isinstance(value, bool) else self.size(name)

    def number(self, name: str, default: float | None = None) -> float:
        return float(check_number(self._get(name, default), f"{self.path}: {name}"))

    def positive(self, name: str, default: float | None = None) -> float:
        value = self.number(name, default)
        if value <= 0:
            raise self._wrong(name, "a number above 0")
        return value

    def truth(self, name: str) -> bool:
        value = self._get(name, False)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def text(self, name: str) -> str:
        value = self._get(name, None)
        if not isinstance(value, str):
            raise self._wrong(name, "a text")
        return value

    def object(self, name: str) -> dict[str, Any]:
        value = self._get(name, {})
        if not isinstance(value, dict):
            raise self._wrong(name, "an object")
        return value


def to_json(config: Any) -> dict[str, Any]:
    """The dataclass as plain JSON values."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}


def write_yaml(config: Any) -> str:
    """The settings in use, as the YAML that `read_yaml` takes."""
    import yaml

    named = {name.replace("_", "-"): value for name, value in to_json(config).items()}
    return yaml.safe_dump(named, sort_keys=False, allow_unicode=True)


def keys_of(row: Mapping[str, Any]) -> str:
    """The keys of a row in a message."""
    return ", ".join(name[:40] for name in list(row)[:12]) or "(none)"
