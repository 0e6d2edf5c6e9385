"""What lies in the folder of a run's checkpoints, be it damaged or foreign."""

import pathlib
import re

import orbax.checkpoint as ocp

NOTES = "_CHECKPOINT_METADATA"  # orbax': when it wrote a step; nothing that is read back


def numbers(directory: pathlib.Path) -> set[int]:
    """Of all that has the name of a step: folders, and files or links in their place."""
    names = (p.name for p in directory.iterdir())
    return {int(n) for n in names if re.fullmatch("0|[1-9][0-9]{0,30}", n)}


def set_notes_aside(directory: pathlib.Path) -> list[pathlib.Path]:
    """Renames notes that keep orbax from listing the steps, which can be read without; returns them."""
    moved = []
    for step in sorted(numbers(directory)):
        path = directory / str(step) / NOTES
        try:
            entry = ocp.path.step.standard_name_format().find_step(directory, step)
            _ = entry.commit_timestamp
        except OSError:
            continue  # of the file system: nothing is known of the notes
        except Exception:
            if path.is_file():
                path.rename(path.with_name(f"{NOTES}.unreadable"))
                moved.append(path)
    return moved
