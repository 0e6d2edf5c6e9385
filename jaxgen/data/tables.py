"""Rows of whole data sets, all splits together, from Hugging Face datasets or tfds.

Both give random access: `rows[i]` is a dict of fields.
"""

from typing import Any

from jaxgen.errors import ConfigError


def hub_rows(name: str, path: str = "") -> Any:
    """Rows of what `datasets.load_dataset(name, data_dir=path)` finds: a hub name or a local folder.

    Raises:
      ConfigError: what `datasets` says of it.
    """
    import datasets

    try:
        loaded = datasets.load_dataset(name, data_dir=path or None)
    except Exception as e:  # of many kinds, as are tfds's; all mean that the data is not to be had
        raise ConfigError("data.name", name, f"a data set that `datasets` can load ({e})") from e
    return datasets.concatenate_datasets([loaded[k] for k in sorted(loaded)])


def tfds_rows(name: str, path: str = "") -> Any:
    """Rows of a tfds data set, prepared under `path` (its data_dir); needs no TensorFlow.

    Raises:
      ConfigError: what tfds says of it.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=path or None, file_format="array_record")
        builder.download_and_prepare()
        return builder.as_data_source(split="all")
    except Exception as e:
        raise ConfigError("data.name", name, f"a data set that tfds can prepare ({e})") from e
