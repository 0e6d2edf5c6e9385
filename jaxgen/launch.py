"""Launching an experiment: flags, config checks, workdir, distributed start, exit codes.

Exit codes: 0 done (or preempted, with everything saved), 1 the run failed (NaN, disk), 2 the user
asked for something impossible, 130 Ctrl-C; all but 0 print one line on stderr.
"""

import importlib.machinery
import json
import logging
import os
import pathlib
import re
import shutil
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Collection, Mapping

import jax
from absl import flags
from ml_collections import FrozenConfigDict, config_flags

from jaxgen import config as config_lib
from jaxgen import distributed
from jaxgen.config import Config
from jaxgen.errors import ConfigError, RunError, UsageError, shorten, shown, told
from jaxgen.train import lock
from jaxgen.train.preemption import Preempted, stoppable
from jaxgen.train.writers import write_atomic

Mode = Callable[[Config, pathlib.Path], None]

# Libraries whose own lines would stand around the one that says what is wrong. Some set their levels
# when they are imported, by these variables.
NOISY = (
    "jax",
    "absl",
    "orbax",
    "tensorboardX",
    "grain",
    "filelock",
    "fsspec",
    "matplotlib",
    "etils",
)
QUIET = {
    "HF_HUB_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def run(
    modes: Mapping[str, Mode],
    validate: Callable[[Config], None],
    argv: list[str] | None = None,
    *,
    runtime: tuple[str, ...] = (),
    begins: Collection[str] = ("train",),
    aliases: Mapping[str, str] | None = None,
) -> None:
    """Parses the command line, prepares jax and the workdir, runs one mode, and exits.

    Args:
      modes: name -> function of (config, workdir). `compile` needs no workdir.
      validate: raises ConfigError for a value that is not allowed, without touching a device.
      runtime: prefixes of fields that may change between launches on one workdir, since they do not touch
        what is being trained.
      begins: modes that may begin a workdir; the others need a trained one.
      aliases: short flag -> the flag that it stands for, such as text -> config.edit.text.
    """
    # Forced, since libraries set up handlers of their own when they are imported.
    logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stderr, force=True)
    logging.getLogger("jaxgen").setLevel(logging.INFO)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    quiet = QUIET if sys.stderr.isatty() else {**QUIET, "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    for variable, value in quiet.items():
        os.environ.setdefault(variable, value)
    warnings.simplefilter("ignore")
    try:
        argv = _unalias(sys.argv if argv is None else argv, aliases or {})
        sys.exit(_run(modes, validate, argv, runtime, begins))
    except ConfigError as e:
        _fail(str(e), 2)
    except RunError as e:
        _fail(str(e), 1)
    except OSError as e:
        _fail(f"{type(e).__name__}: {e}", 1)
    except KeyboardInterrupt:
        _fail("interrupted; launch again to go on from the newest checkpoint", 130)


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
    runtime: tuple[str, ...],
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
    failed = check_workdir(
        pathlib.Path(workdir), config, mode, runtime=runtime, may_begin=mode in begins
    )
    setup_devices(config.mesh, mode)
    keep_programs(pathlib.Path(workdir))
    try:
        with lock.hold(pathlib.Path(workdir)), stoppable():
            if failed and jax.process_index() == 0:
                clear(pathlib.Path(workdir))
            modes[mode](config, pathlib.Path(workdir))
    except Preempted as e:
        print(e, file=sys.stderr)
    return 0


def parse(argv: list[str], modes: Mapping[str, Mode]) -> tuple[Config, str, str]:
    """(config with overrides, workdir, mode) of a command line.

    Raises:
      ConfigError: an unknown flag or field, a value of the wrong type, a config file that is missing or
        cannot be loaded.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "Where the run's files go.", flag_values=values)
    flags.DEFINE_string("mode", "train", "One of: " + ", ".join(modes), flag_values=values)
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    try:
        argv = [argv[0], *values.read_flags_from_files(argv[1:], force_gnu=False)]
    except (flags.Error, OSError, ValueError) as e:
        raise UsageError(f"--flagfile: {e}") from e
    argv, file = _take_config(argv)
    if file is not None:
        config = load_config(file)
    elif any(a in ("--help", "-help", "-h", "--h") for a in argv):
        config = Config()
    else:
        raise ConfigError("config", None, "a config file, --config=configs/NAME/VARIANT.py")
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        rest = values(argv)
    except (AttributeError, KeyError) as e:
        # ml_collections names the last part of the path and what may have been meant.
        name, *hint = (str(e.args[0]) if e.args else "").replace('"', "'").splitlines() or [""]
        at = [a for a in argv if a.startswith("--config.") and f".{name.strip(chr(39))}" in a]
        where = shorten(at[0]) if at else "command line"
        raise UsageError(f"{where}: no field {name} in the config; {' '.join(hint)}") from e
    except Exception as e:  # of many kinds; nothing but the command line is read here
        raise UsageError(shorten(str(e) or type(e).__name__, 500)) from e
    if values.help:
        print(f"usage: {argv[0]} --config=FILE --workdir=DIR [--mode=...] [--config.x.y=value]")
        print(values.main_module_help() or values.get_help())
        raise SystemExit(0)
    if len(rest) > 1:
        raise ConfigError("command line", rest[1], "flags only, such as --workdir=DIR")
    if values.mode not in modes:
        raise ConfigError("mode", values.mode, "one of " + ", ".join(modes))
    return values.config, values.workdir, values.mode


def _take_config(argv: list[str]) -> tuple[list[str], str | None]:
    """The command line without `--config=FILE` or `--config FILE`, and the last such file."""
    rest, file, place = [], None, 0
    while place < len(argv):
        name, equals, value = argv[place].partition("=")
        place += 1
        if name not in ("--config", "-config"):
            rest.append(argv[place - 1])
        elif equals:
            file = value
        elif place < len(argv):
            file = argv[place]
            place += 1
        else:
            raise UsageError("Missing value for flag --config")
    return rest, file


def load_config(file: str) -> Config:
    """What `get_config()` of a config file returns; of FILE:WORD, `get_config("WORD")`.

    Raises:
      ConfigError: names the file, and the exception where it raises one.
    """
    path, *argument = file.split(":", 1)
    if not os.path.isfile(path):
        raise ConfigError("config", path, "an existing config file")
    try:
        loader = importlib.machinery.SourceFileLoader("jaxgen_config_file", path)
        module = types.ModuleType(loader.name)
        module.__file__ = path
        loader.exec_module(module)
        config = module.get_config(*argument)
    except (Exception, SystemExit) as e:
        lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == path]
        at = f", line {lines[-1]}" if lines else ""
        allowed = f"a file with get_config(); this one raises {told(e)}{at}"
        raise ConfigError("config", file, allowed) from e
    if not isinstance(config, Config):
        raise ConfigError(
            "config", file, f"a file whose get_config() returns a ConfigDict, not {shown(config)}"
        )
    return Config(config) if isinstance(config, FrozenConfigDict) else config


def setup_devices(mesh: Config, mode: str) -> None:
    """Platform, forced host devices and processes, before jax touches a device."""
    if mode == "compile":
        jax.config.update("jax_platforms", "cpu")
    if mesh.host_devices:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", mesh.host_devices)
    if mode != "compile":
        distributed.meet(mesh.processes, mesh.process_id, mesh.coordinator)
    try:
        jax.devices()
    except RuntimeError as e:
        raise UsageError(f"no devices: {e}") from e


def keep_programs(workdir: pathlib.Path) -> None:
    """What is compiled is kept beside the workdir, for the next launch there; see `jax_compilation_cache_dir`.

    Where jax was told another place (JAX_COMPILATION_CACHE_DIR), that is kept. An entry that cannot be read or
    written costs a compilation, not the run.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update(
            "jax_compilation_cache_dir", str(workdir.absolute().parent / ".jax_cache")
        )


def check_workdir(
    workdir: pathlib.Path,
    config: Config,
    mode: str,
    *,
    runtime: tuple[str, ...] = (),
    may_begin: bool,
) -> bool:
    """Checks that a workdir is new (if it may be) or was started with the same config.

    A workdir belongs to its config from the first checkpoint on.

    Returns:
      Whether it holds what a launch with another config left that failed before; see `clear`.

    Raises:
      ConfigError: the workdir holds another config (each differing field is named), is not a
        folder, or is empty where the mode may not begin one.
    """
    path = workdir / "config.json"
    try:
        exists = path.exists()
        _check_writable(workdir)
    except OSError as e:  # such as a name that is too long
        raise ConfigError("workdir", str(workdir), f"a folder ({e.strerror})") from e
    if not exists:
        if not may_begin:
            raise ConfigError("workdir", str(workdir), f"a trained workdir for --mode={mode}")
        return False
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise ConfigError("workdir", str(path), f"readable JSON ({e})") from e
    if not isinstance(old, dict):
        raise ConfigError("workdir", str(path), "a config, as JSON with its fields by name")
    new = json.loads(config_lib.to_json(config))
    changed = config_lib.differences(old, new, runtime)
    if changed and may_begin and not _has_checkpoints(workdir):
        return True
    if changed:
        some = changed[:8] + [f"and {len(changed) - 8} more"] * (len(changed) > 8)
        raise ConfigError(
            "workdir", str(workdir), "the config it was started with; " + "; ".join(some)
        )
    return False


def clear(workdir: pathlib.Path) -> None:
    """Takes away what a launch wrote that failed before its first checkpoint; other files stay."""
    for name in ("checkpoints", "tensorboard", "tokenizer"):
        shutil.rmtree(workdir / name, ignore_errors=True)
    for name in ("metrics.jsonl", "tokenizers.json", "config.json"):
        (workdir / name).unlink(missing_ok=True)


def _has_checkpoints(workdir: pathlib.Path) -> bool:
    """Whether a run of it, or of a workdir within it, saved a step (be it unreadable now), or left results."""
    if any(workdir.glob("results/*.json")):
        return True
    saved = workdir.glob("**/checkpoints/*/*")
    return any(re.fullmatch(r"(unreadable-)?\d+(-\d+)?", p.name) for p in saved)


def _check_writable(workdir: pathlib.Path) -> None:
    """Raises ConfigError where the workdir, or what it would be made in, is no folder to write in."""
    for folder in (workdir, *workdir.absolute().parents):
        if folder.exists() or folder.is_symlink():
            if not folder.is_dir():
                raise ConfigError("workdir", str(workdir), f"a folder; {folder} is none")
            if not os.access(folder, os.W_OK | os.X_OK):
                raise ConfigError("workdir", str(workdir), f"a folder; {folder} is not writable")
            return


def write_config(workdir: pathlib.Path, config: Config) -> None:
    """Marks the workdir as belonging to `config`; called once its data could be read."""
    if jax.process_index() == 0:
        write_atomic(workdir / "config.json", config_lib.to_json(config))


def _fail(message: str, code: int) -> None:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)
