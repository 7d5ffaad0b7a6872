"""Files of the Hugging Face hub, at a revision that can be named: NAME@REVISION. What was fetched is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

#: repository -> the commit that its files are of; a run writes this into its config.json
fetched: dict[str, str] = {}


def split(source: str) -> tuple[str, str]:
    """The name and the revision (a branch, a tag or a commit; "" is the newest) of NAME or NAME@REVISION."""
    name, _, revision = source.partition("@")
    return name, revision


def snapshot(source: str, patterns: Sequence[str], *, kind: str = "model") -> Path:
    """The local folder of a repository's files that match, fetched where they are not there yet.

    source: NAME or NAME@REVISION. kind: model or dataset. Raises OSError or ValueError when there is no such
    repository, name or revision, or the network is needed and not there.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, revision = split(source)
    try:
        folder = Path(snapshot_download(name, repo_type=kind, revision=revision or None, allow_patterns=list(patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise OSError(str(error)) from None
    if folder.parent.name == "snapshots":  # .../snapshots/COMMIT, whatever the revision was called
        fetched[name] = folder.name
    return folder
