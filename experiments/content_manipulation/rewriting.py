"""Records that a person edits: sentences of the command line, and edits that the report's page shows."""

import dataclasses
import json
from collections.abc import Sequence
from typing import NamedTuple

from experiments.content_manipulation.corpus import Corpus
from experiments.content_manipulation.systems import System
from experiments.content_manipulation.writing import write
from jaxgen.config import Config
from jaxgen.data.lines import read_stdin
from jaxgen.data.style_records import Fact, Record, StyleRecords, parse_record
from jaxgen.errors import ConfigError
from jaxgen.metrics.records import is_number
from jaxgen.models.data_to_text import DataToText

ITEMS = 8  # of test, whose records are edited
CHANGES = 4  # of each


class Request(NamedTuple):
    """A record to write in the style of a reference; the record of that is needed by marks alone."""

    record: Record
    reference: str
    reference_record: Record


def requests(config: Config) -> list[Request]:
    """Of `--record` and `--reference`, or of stdin: a line is {"record": [...], "reference": "..."}.

    Raises:
      ConfigError: anything that is no record, or no sentence.
    """
    r = config.rewrite
    if bool(r.record) != bool(r.reference):
        missing = "reference" if r.record else "record"
        raise ConfigError(f"rewrite.{missing}", "", "given, where the other one is")
    if r.record:
        return [request(r.record, r.reference, r.reference_record)]
    out = []
    for number, line in enumerate(read_stdin(), 1):
        wanted = 'a line {"record": [...], "reference": "..."}'
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise ConfigError(f"line {number} of the input", line, wanted) from e
        allowed = {"record", "reference", "reference_record"}
        ok = isinstance(found, dict) and {"record", "reference"} <= set(found) <= allowed
        if not ok or not isinstance(found["reference"], str):
            raise ConfigError(f"line {number} of the input", line, wanted)
        record, theirs = (
            json.dumps(found[k]) if k in found else "" for k in ("record", "reference_record")
        )
        out.append(request(record, found["reference"], theirs))
    if not out:
        raise ConfigError("rewrite.record", "", "a record, there or on standard input")
    return out


def request(record: str, reference: str, reference_record: str = "") -> Request:
    """Of JSON and a sentence, whose words are split by spaces.

    Raises:
      ConfigError: as `parse_record`, and a reference without a word.
    """
    if not reference.split():
        raise ConfigError("rewrite.reference", reference, "a sentence")
    theirs = parse_record(reference_record) if reference_record else ()
    return Request(parse_record(record), " ".join(reference.split()), theirs)


def rewrite(
    config: Config,
    corpus: Corpus,
    model: DataToText,
    system: System,
    asked: Sequence[Request],
) -> list[str]:
    """A sentence for each request.

    Values, owners, types and words that training never saw are read as unknown ones, and values are copied all
    the same. A record may be longer than those of training: the encoder is of a set.

    Raises:
      ConfigError: a reference longer than there is room, a record with more unknown values than slots, marks
        without the reference's record.
    """
    for r in asked:
        if len(r.reference.split()) >= corpus.words:
            raise ConfigError(
                "rewrite.reference",
                f"of {len(r.reference.split())} words",
                f"at most data.max_words, {corpus.words - 1}",
            )
        if system.marked and not r.reference_record:
            raise ConfigError(
                "rewrite.reference_record", "", f"the reference's record, for system {system.title}"
            )
    # Without marks the reference's record is not read.
    theirs = [r.reference_record or r.record for r in asked]
    lines = [r.reference for r in asked]
    part = StyleRecords([r.record for r in asked], theirs, lines, lines)
    return write(config, corpus, model, system, part, beams=config.evaluate.beams)


class Edit(NamedTuple):
    """A record of test after a change, and what is written of it."""

    item: int
    change: str
    record: Record
    text: str


def edits(
    config: Config, corpus: Corpus, model: DataToText, system: System
) -> list[dict[str, object]]:
    """Sentences of test records as they are and with a few changes, one at a time, as JSON."""
    test = corpus.parts["test"]
    items, changes, records = [], [], []
    for i in range(min(ITEMS, len(test))):
        for change, record in changed(test.x[i]):
            items.append(i)
            changes.append(change)
            records.append(record)
    part = dataclasses.replace(test.take(items), x=records)
    written = write(config, corpus, model, system, part, beams=config.evaluate.beams)
    rows = zip(items, changes, records, written, strict=True)
    return [{**Edit(*row)._asdict(), "record": [list(f) for f in row[2]]} for row in rows]


def changed(record: Record) -> list[tuple[str, Record]]:
    """The record, and with: a number one higher, another number 17, a tuple less, a value nobody saw."""
    out = [("as it is", record)]
    numbers = [i for i, f in enumerate(record) if is_number(f.value)]
    for i, new in zip(numbers, (None, "17"), strict=False):
        value = new or str(int(record[i].value) + 1)
        out.append((f"{record[i].type} {value}", _put(record, i, value)))
    if len(record) > 1:
        gone = (numbers or [len(record) - 1])[-1]
        rest = record[:gone] + record[gone + 1 :]
        out.append((f"without {record[gone].type} {record[gone].value}", rest))
    for i, fact in enumerate(record):
        if fact.value == fact.owner:
            out.append(("a name of nobody", _rename(record, fact.value, "Zanzibari")))
            break
        if not numbers:
            out.append((f"{fact.type} is new", _put(record, i, "zanzibari")))
            break
    return out[: CHANGES + 1]


def _put(record: Record, i: int, value: str) -> Record:
    return (*record[:i], record[i]._replace(value=value), *record[i + 1 :])


def _rename(record: Record, old: str, new: str) -> Record:
    return tuple(Fact(f.type, *(new if w == old else w for w in f[1:])) for f in record)
