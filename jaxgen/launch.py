"""Launching an experiment: flags, config checks, workdir, distributed start, exit codes.

Exit codes: 0 done (or preempted, with everything saved), 1 the run failed (NaN, disk), 2 the user
asked for something impossible; 1 and 2 print one line on stderr.
"""

import json
import logging
import pathlib
import re
import shutil
import sys
from collections.abc import Callable, Collection, Mapping

import jax
from absl import flags
from ml_collections import config_flags

from jaxgen import config as config_lib
from jaxgen.config import Config
from jaxgen.errors import ConfigError, RunError, UsageError
from jaxgen.train import lock
from jaxgen.train.preemption import Preempted, stoppable
from jaxgen.train.writers import write_atomic

Mode = Callable[[Config, pathlib.Path], None]

# Fields that may change between launches on one workdir: they do not touch what is being trained.
RUNTIME_FIELDS = (
    "mesh.",
    "seeds",
    "sample.",
    "ascent.",
    "edit.",
    "evaluate.",
    "noise.kinds",
    "noise.levels",
    "losses",
    "transfer.content_weights",
    "train.log_every",
    "train.save_every",
    "train.keep",
    "train.restart",
    "train.profile",
)


def run(
    modes: Mapping[str, Mode],
    validate: Callable[[Config], None],
    argv: list[str] | None = None,
    *,
    begins: Collection[str] = ("train",),
    aliases: Mapping[str, str] | None = None,
) -> None:
    """Parses the command line, prepares jax and the workdir, runs one mode, and exits.

    Args:
      modes: name -> function of (config, workdir). `compile` needs no workdir.
      validate: raises ConfigError for a value that is not allowed, without touching a device.
      begins: modes that may begin a workdir; the others need a trained one.
      aliases: short flag -> the flag that it stands for, such as text -> config.edit.text.
    """
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    for noisy in ("jax", "absl", "orbax", "tensorboardX", "grain"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        argv = _unalias(sys.argv if argv is None else argv, aliases or {})
        sys.exit(_run(modes, validate, argv, begins))
    except ConfigError as e:
        _fail(str(e), 2)
    except RunError as e:
        _fail(str(e), 1)
    except OSError as e:
        _fail(f"{type(e).__name__}: {e}", 1)


def _unalias(argv: list[str], aliases: Mapping[str, str]) -> list[str]:
    out = []
    for arg in argv:
        name, *value = arg.removeprefix("--").split("=", 1)
        known = arg.startswith("--") and name in aliases
        out.append("=".join([f"--{aliases[name]}", *value]) if known else arg)
    return out


def _run(
    modes: Mapping[str, Mode],
    validate: Callable[[Config], None],
    argv: list[str],
    begins: Collection[str],
) -> int:
    config, workdir, mode = parse(argv, modes)
    validate(config)
    if mode == "compile":
        setup_devices(config.mesh, mode)
        modes[mode](config, pathlib.Path(workdir))
        return 0
    if not workdir:
        raise ConfigError("workdir", "", "a folder, --workdir=runs/NAME")
    check_workdir(pathlib.Path(workdir), config, mode, may_begin=mode in begins)
    setup_devices(config.mesh, mode)
    try:
        with lock.hold(pathlib.Path(workdir)), stoppable():
            modes[mode](config, pathlib.Path(workdir))
    except Preempted as e:
        print(e, file=sys.stderr)
    return 0


def parse(argv: list[str], modes: Mapping[str, Mode]) -> tuple[Config, str, str]:
    """(config with overrides, workdir, mode) of a command line.

    Raises:
      ConfigError: an unknown flag or field, a value of the wrong type, a missing config file.
    """
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "The config file.", flag_values=values, sys_argv=argv
    )
    flags.DEFINE_string("workdir", "", "Where the run's files go.", flag_values=values)
    flags.DEFINE_string("mode", "train", "One of: " + ", ".join(modes), flag_values=values)
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    for i, arg in enumerate(argv):
        file = argv[i + 1] if arg == "--config" and i + 1 < len(argv) else arg
        if arg == "--config" or arg.startswith("--config="):
            file = file.removeprefix("--config=").split(":")[0]
            if not pathlib.Path(file).is_file():
                raise ConfigError("config", file, "an existing config file")
    try:
        rest = values(argv)
    except (AttributeError, KeyError) as e:
        # ml_collections names the last part of the path and what may have been meant.
        name, *hint = str(e.args[0]).replace('"', "'").splitlines()
        at = [a for a in argv if a.startswith("--config.") and f".{name.strip(chr(39))}" in a]
        where = at[0] if at else "command line"
        raise UsageError(f"{where}: no field {name} in the config; {' '.join(hint)}") from e
    except (flags.Error, TypeError, ValueError, SyntaxError) as e:
        raise UsageError(str(e)) from e
    if values.help:
        print(f"usage: {argv[0]} --config=FILE --workdir=DIR [--mode=...] [--config.x.y=value]")
        print(values.main_module_help() or values.get_help())
        raise SystemExit(0)
    if len(rest) > 1:
        raise ConfigError("command line", rest[1], "flags only, such as --workdir=DIR")
    if values.config is None:
        raise ConfigError("config", None, "a config file, --config=configs/NAME/VARIANT.py")
    if values.mode not in modes:
        raise ConfigError("mode", values.mode, "one of " + ", ".join(modes))
    return values.config, values.workdir, values.mode


def setup_devices(mesh: Config, mode: str) -> None:
    """Platform, forced host devices and processes, before jax touches a device."""
    if mode == "compile":
        jax.config.update("jax_platforms", "cpu")
    if mesh.host_devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", mesh.host_devices)
    if mesh.processes > 1 or mesh.coordinator:
        jax.distributed.initialize(
            coordinator_address=mesh.coordinator or None,
            num_processes=mesh.processes if mesh.processes > 1 else None,
            process_id=mesh.process_id if mesh.process_id >= 0 else None,
        )


def check_workdir(workdir: pathlib.Path, config: Config, mode: str, *, may_begin: bool) -> None:
    """Checks that a workdir is new (if it may be) or was started with the same config.

    A workdir belongs to its config from the first checkpoint on; what a launch left that failed before
    is taken away here, where the config is another one now.

    Raises:
      ConfigError: the workdir holds another config (each differing field is named), is not a
        folder, or is empty where the mode may not begin one.
    """
    path = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise ConfigError("workdir", str(workdir), "a folder")
    if not path.exists():
        if not may_begin:
            raise ConfigError("workdir", str(workdir), f"a trained workdir for --mode={mode}")
        return
    try:
        old = json.loads(path.read_text())
    except json.JSONDecodeError as e:
        raise ConfigError("workdir", str(path), f"readable JSON ({e})") from e
    new = json.loads(config_lib.to_json(config))
    changed = config_lib.differences(old, new, RUNTIME_FIELDS)
    if changed and may_begin and not _has_checkpoints(workdir):
        for name in ("checkpoints", "tensorboard", "tokenizer"):
            shutil.rmtree(workdir / name, ignore_errors=True)
        for name in ("metrics.jsonl", "tokenizers.json", "config.json"):
            (workdir / name).unlink(missing_ok=True)
        return
    if changed:
        raise ConfigError(
            "workdir", str(workdir), "the config it was started with; " + "; ".join(changed)
        )


def _has_checkpoints(workdir: pathlib.Path) -> bool:
    """Whether a run of it, or of a workdir within it, saved a step, be it unreadable now."""
    saved = workdir.glob("**/checkpoints/*/*")
    return any(re.fullmatch(r"(unreadable-)?\d+(-\d+)?", p.name) for p in saved)


def write_config(workdir: pathlib.Path, config: Config) -> None:
    """Marks the workdir as belonging to `config`; called once its data could be read."""
    if jax.process_index() == 0:
        write_atomic(workdir / "config.json", config_lib.to_json(config))


def _fail(message: str, code: int) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)
