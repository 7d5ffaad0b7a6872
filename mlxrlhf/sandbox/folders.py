"""Folders on disk that a snippet filled: how much is in them, and away with them."""

import os
import stat


def folder_exceeds(folder: str, limit: int, entries: int = 4096) -> bool:
    """Whether what is below takes more than `limit` bytes on disk or has more than so many entries."""
    size, count, queue = 0, 0, [folder]
    while queue:
        try:
            with os.scandir(queue.pop()) as found:
                for entry in found:
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    count += 1
                    if size > limit or count > entries:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        queue.append(entry.path)
        except OSError:
            continue  # it changed meanwhile, was closed to us, or lies too deep to have a path
    return False


def remove_tree(folder: str) -> None:
    """Remove a folder that a snippet filled, however deep and whatever its modes; nothing is followed out of it."""
    try:
        os.chmod(folder, 0o700)
        here = os.open(folder, _FOLDER)
        try:
            waiting = [_emptied_of_files(here)]  # folders still to remove, level by level
            names: list[str] = []
            while names or waiting[-1]:
                if waiting[-1]:
                    names.append(waiting[-1].pop())
                    os.chmod(names[-1], 0o700, dir_fd=here)
                    here = _moved(here, names[-1])
                    waiting.append(_emptied_of_files(here))
                else:
                    waiting.pop()
                    here = _moved(here, "..")
                    os.rmdir(names.pop(), dir_fd=here)
        finally:
            os.close(here)
        os.rmdir(folder)
    except OSError:
        pass  # it is in the temporary folder, which the system tidies


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _moved(here: int, name: str) -> int:
    """The folder `name` of the open folder `here`, opened in its place."""
    there = os.open(name, _FOLDER, dir_fd=here)
    os.close(here)
    return there


def _emptied_of_files(here: int) -> list[str]:
    """Delete what is no folder in the open folder `here`; the names of its folders."""
    folders = []
    for name in os.listdir(here):
        if stat.S_ISDIR(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
            folders.append(name)
        else:
            os.unlink(name, dir_fd=here)
    return folders
