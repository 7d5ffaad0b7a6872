"""Settings from outside: bounds of a config's fields, YAML files, and plain JSON values."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mlxrlhf.errors import UserError


def validate(config: Any) -> None:
    """Raise UserError for the first field outside its bounds, named by its flag."""
    for f in fields(config):
        value, flag = getattr(config, f.name), "--" + f.name.replace("_", "-")
        if isinstance(value, float) and value != value:
            raise UserError(f"{flag} is not a number")
        minimum = f.metadata.get("minimum")
        if minimum is not None and value < minimum:
            raise UserError(f"{flag} is {value}; it must be at least {minimum:g}")
        maximum = f.metadata.get("maximum")
        if maximum is not None and value > maximum:
            raise UserError(f"{flag} is {value}; it must be at most {maximum:g}")
        choices = f.metadata.get("choices")
        if choices and value not in choices and value != f.default:
            raise UserError(f"{flag} is {value!r}; choose one of {', '.join(choices)}")


def read_yaml(path: Path, kind: type) -> dict[str, Any]:
    """The settings of a YAML file by field name of the config dataclass `kind`; dashes and underscores are the same.

    Raises UserError for a file that cannot be read, a name that is no flag, and a value of another type.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--config {path} cannot be read ({getattr(error, 'strerror', None) or error}); name a YAML file"
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"--config {path} is not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise UserError(f"--config {path} must hold lines such as `batch-size: 8`")
    defaults, settings = {f.name: f.default for f in fields(kind)}, {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in defaults:
            raise UserError(f"{path}: {key} is no flag of this command; --help lists them")
        wanted = type(defaults[name])
        try:
            # YAML reads 1e-4 as text, so numbers go through their own type; a bool is no number here.
            good = isinstance(value, bool) == (wanted is bool) and not isinstance(value, (dict, list, type(None)))
            settings[name] = wanted(value) if good else None
        except ValueError:
            good = False
        if not good or (wanted is int and settings[name] != float(value)):
            raise UserError(f"{path}: {key} is {value!r}; it must be a value of type {wanted.__name__}")
    return settings


def to_json(config: Any) -> dict:
    """The dataclass as plain JSON values."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(config).items()}
