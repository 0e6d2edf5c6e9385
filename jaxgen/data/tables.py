"""Rows of whole data sets, all splits together, from Hugging Face datasets or tfds.

Both give random access: `rows[i]` is a dict of fields. Without a network, what is not on this machine is
refused at once.
"""

import contextlib
import dataclasses
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from jaxgen.data.root import expand
from jaxgen.errors import ConfigError

DataSource: TypeAlias = Any  # datasets.Dataset, or a source of tfds: `rows[i]`, `len(rows)`
NO_CLASS = -1  # what both libraries write where a row of a data set with classes has none


def hub_rows(name: str, path: str = "", label_fields: Sequence[str] = ()) -> DataSource:
    """Rows of what `datasets.load_dataset(name, data_dir=path)` finds: a hub name or a local folder.

    Splits in which no row has a class are left out where the class is asked for: the first of
    `label_fields` that there is.

    Raises:
      ConfigError: what `datasets` says of it.
    """
    import datasets
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES as PACKAGED
    from datasets.packaged_modules.csv.csv import Csv

    where = "a data set that `datasets` can load"
    local = name in PACKAGED or os.path.exists(name)
    if not name:
        raise ConfigError("data.name", name, where)
    folder = expand(path) or None
    try:
        with contextlib.nullcontext() if local else _no_retries(datasets.config.HF_ENDPOINT):
            builder = datasets.load_dataset_builder(name, data_dir=folder)
            # Without this, pandas takes the sentences `null`, `NA`, `None` and `nan` for missing ones.
            options = {"keep_default_na": False} if isinstance(builder, Csv) else {}
            loaded = datasets.load_dataset(name, data_dir=folder, **options)
        parts = [loaded[k] for k in sorted(loaded)]
        label = first_of(parts[0], label_fields)
        if class_count(parts[0], label) is not None:
            labelled = [p for p in parts if set(column(p, label)) != {NO_CLASS}]
            parts = labelled or parts
        return datasets.concatenate_datasets(parts)
    except Exception as e:  # of many kinds, as are tfds's; all mean that the data is not to be had
        raise ConfigError("data.name", name, f"{where} ({first_line(e)})") from e


def tfds_rows(name: str, path: str = "", label_fields: Sequence[str] = ()) -> DataSource:
    """Rows of a tfds data set, prepared under `path` (its data_dir); needs no TensorFlow.

    Splits in which no row has a class are left out where the class is asked for: the first of
    `label_fields` that there is.

    Raises:
      ConfigError: what tfds says of it.
    """
    import tensorflow_datasets as tfds

    where = "a data set that tfds can prepare"
    folder = expand(path) or None
    try:
        builder = tfds.builder(name, data_dir=folder, file_format="array_record")
        needed = [] if builder.data_path.exists() else list(builder.url_infos)
        if needed and not reachable(needed[0]):
            raise OSError(f"{urllib.parse.urlsplit(needed[0]).netloc} cannot be reached")
        builder.download_and_prepare()
        rows = builder.as_data_source(split="all")
        label = first_of(rows, label_fields)
        if class_count(rows, label) is None:
            return rows
        parts = builder.as_data_source()
        labelled = [k for k in sorted(parts) if set(column(parts[k], label)) != {NO_CLASS}]
        if len(labelled) in (0, len(parts)):
            return rows
        return builder.as_data_source(split="+".join(labelled))
    except Exception as e:
        raise ConfigError("data.name", name, f"{where} ({first_line(e)})") from e


def column(rows: DataSource, field: str) -> Sequence[object]:
    """One field of all rows; the others, perhaps images, are not decoded."""
    if hasattr(rows, "column_names"):
        return list(rows[field])
    import tensorflow_datasets as tfds

    others = [k for k in fields(rows) if k != field]
    rows = dataclasses.replace(rows, decoders={k: tfds.decode.SkipDecoding() for k in others})
    return [rows[i][field] for i in range(len(rows))]


def fields(rows: DataSource) -> Any:
    """A mapping of names to what the library says of these fields."""
    return rows.features if hasattr(rows, "features") else rows.dataset_info.features


def first_of(rows: DataSource, names: Sequence[str]) -> str:
    """The first of these fields that the rows have; "" if they have none."""
    return next((name for name in names if name in fields(rows)), "")


def class_count(rows: DataSource, field: str) -> int | None:
    """Number of classes that a data set declares of a field; None where it declares none."""
    known = fields(rows)
    return getattr(known[field], "num_classes", None) if field in known else None


def reachable(url: str, seconds: float = 1.5) -> bool:
    """Whether the host of a URL (or the proxy on the way to it) answers in time, with whatever."""
    found = []

    def ask() -> None:
        parts = urllib.parse.urlsplit(url)
        host = urllib.request.Request(f"{parts.scheme}://{parts.netloc}", method="HEAD")
        try:
            with urllib.request.urlopen(host, timeout=seconds):
                found.append(True)
        except urllib.error.HTTPError:
            found.append(True)
        except urllib.error.URLError as e:
            # Certificates are the business of the library that loads the data.
            found.append("CERTIFICATE" in str(e.reason))
        except (OSError, ValueError):
            found.append(False)

    # Looking up a name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(found and found[0])


@contextlib.contextmanager
def _no_retries(endpoint: str) -> Iterator[None]:
    """Without a network, `datasets` looks into its cache alone, at once and without a word."""
    import datasets
    import huggingface_hub

    if datasets.config.HF_HUB_OFFLINE or reachable(endpoint):
        yield
        return
    modules: tuple[Any, Any] = (datasets.config, huggingface_hub.constants)
    before = [module.HF_HUB_OFFLINE for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def first_line(e: Exception) -> str:
    """What an exception of another library says, short enough for a message of one line."""
    text = str(e).strip() or type(e).__name__
    return text.splitlines()[0][:300]
