"""The documentation is true: its code runs, its names exist, its links lead somewhere.

Conventions of the documents:

- Every ``python`` block runs. The blocks of a file share a namespace and an empty directory.
- A ``text`` block under the comment ``<!-- output -->`` is what the last ``python`` block prints.
- `:::` and a name, in a page of the reference, is replaced by its docstring on the site.
- A table column headed *here* or *constant* holds code that `_check` understands.

A hook, capability, error, backend option, or method of a backend that is not documented fails.
"""

import contextlib
import dataclasses
import inspect
import io
import pkgutil
import queue
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args

import pytest
import yaml

import hq_backends
import hq_core
from hq_backends.file.format import Plain
from hq_core import (
    API_VERSION,
    AsyncHybridQueue,
    Capability,
    HybridQueue,
    OverflowBackend,
    QueueStats,
    SpoolTools,
    Stream,
    errors,
    hookspecs,
    registry,
)
from hq_core.protocols import Leftover, OnCorruption, WhenFull
from hq_core.spool.names import file_name, stream_id
from hq_core.testing import BackendConformance
from hq_metrics.table import METRICS, Metric

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = sorted(ROOT.glob("docs/**/*.md"))
PAGES: Final = sorted(ROOT.glob("*.md")) + DOCS
API: Final = ROOT / "docs" / "api.md"
FORMAT: Final = ROOT / "docs" / "file-format.md"
ASYNCIO: Final = ROOT / "docs" / "asyncio.md"
BACKEND_API: Final = ROOT / "docs" / "backend-api.md"
CHOOSING: Final = ROOT / "docs" / "choosing-a-backend.md"
MONITORING: Final = ROOT / "docs" / "monitoring.md"
GUIDE: Final = ROOT / "docs" / "writing-a-backend.md"
SPECIFICATION: Final = ROOT / "docs" / "specification.md"

Row = dict[str, str]


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    text: str
    line: int
    is_output: bool


def _blocks(path: Path) -> list[Block]:
    fence = re.compile(r"^(<!-- output -->\n+)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    text = path.read_text("utf-8")
    return [
        Block(m[2], m[3], text.count("\n", 0, m.start(3)), m[1] is not None)
        for m in fence.finditer(text)
    ]


def _prose(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def _spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def _rows(path: Path, heading: str) -> list[Row]:
    """The rows of all tables in `path` with a column called `heading`, by column."""
    rows = []
    for table in re.findall(r"(?:^\|.*\|\n)+", _prose(path), re.MULTILINE):
        lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()]
        if heading in lines[0]:
            rows += [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]
    return rows


def _slugs(path: Path) -> set[str]:
    """The anchors of the headings in `path`, as they are made on the usual web sites."""
    headings = re.findall(r"^#+ (.*)$", _prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def _resolve(name: str) -> Any:
    return pkgutil.resolve_name(name if name.startswith("hq_") else f"hq_core:{name}")


def _parameters(function: Any) -> list[tuple[str, object, object]]:
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in parameters if p.name != "self"]


def _check(code: str) -> None:
    """Fail unless what `code` says exists and is as `code` says.

    `code` is ``class Name(Base)``, ``name = value``, ``name(parameters)`` or ``name``; parameters
    that end in ``...`` are the first of several.
    """
    known = {**vars(hq_core), "queue": queue}
    if match := re.fullmatch(r"class (\w+)\((.*)\)", code):
        assert _resolve(match[1]).__bases__ == eval(f"({match[2]},)", known)
    elif match := re.fullmatch(r"([\w.]+) = (.*)", code):
        assert _resolve(match[1]) == eval(match[2], known)
    elif match := re.fullmatch(r"([\w.]+)\((.*?)(, \.\.\.)?\)", code):
        exec(f"def written({match[2]}): ...", known)
        written, real = _parameters(known["written"]), _parameters(_resolve(match[1]))
        assert written == (real[: len(written)] if match[3] else real)
        assert not match[3] or len(real) > len(written), "nothing follows"
    else:
        assert not inspect.isroutine(_resolve(code)), "its parameters are missing"


def _code_to_check() -> Iterator[str]:
    for path in DOCS:
        for heading in ("here", "constant"):
            for row in _rows(path, heading):
                yield from _spans(row[heading])


# ---- code ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        ROOT / "README.md",
        *(path for path in DOCS if path != FORMAT),
        pytest.param(FORMAT, marks=pytest.mark.slow),  # it starts a process
    ],
    ids=lambda path: path.name,
)
def test_every_python_block_runs_and_prints_what_is_shown(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not path.exists():
        pytest.skip(f"there is no {path.name} yet")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed = None
    for block in _blocks(path):
        if block.language == "python":
            # The empty lines make a traceback show the line of the document.
            code = compile("\n" * block.line + block.text, path, "exec", dont_inherit=True)
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(code, namespace)
            printed = out.getvalue()
        elif block.is_output:
            assert block.text == printed, f"{path.name}, line {block.line}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_python_block_is_overlooked(path: Path) -> None:
    python = [block for block in _blocks(path) if block.language == "python"]
    assert path.read_text("utf-8").count("```python") == len(python)


# ---- names -----------------------------------------------------------------------------------


def test_every_public_name_is_documented() -> None:
    code = [block.text for path in DOCS for block in _blocks(path)]
    code += [span for path in DOCS for span in _spans(_prose(path))]
    documented = set(re.findall(r"\w+", "\n".join(code)))
    names = {*hq_core.__all__, *(capability.name for capability in Capability)}
    names |= {hookspecs.ENTRY_POINT_GROUP, hookspecs.hq_register_backends.__name__}
    assert names - documented == set()


@pytest.mark.parametrize("code", list(_code_to_check()))
def test_what_the_tables_name_exists_as_written(code: str) -> None:
    _check(code)


def test_every_row_of_the_specification_names_something() -> None:
    rows = _rows(SPECIFICATION, "here")
    assert [row for row in rows if not _spans(row["here"])] == []
    assert len(rows) >= 21


@pytest.mark.parametrize(
    "wrong",
    [
        "Missing",
        "HybridQueue.enqueue",
        "HybridQueue.enqueue(data)",
        "HybridQueue.enqueue(data, timeout=0)",
        "HybridQueue.enqueue(data, timeout=None, ...)",
        "TokenBucket(rate=10_000, burst=100)",
        "QueueStats(depth, stream_id, ...)",
        "class QueueEmpty(HybridQueueError)",
        "MAX_MESSAGE_BYTES = 10_000_000",
    ],
)
def test_the_check_of_names_notices(wrong: str) -> None:
    with pytest.raises((AssertionError, AttributeError)):
        _check(wrong)


def test_the_api_on_one_page_lists_every_option_with_its_default_and_choices() -> None:
    rows = _rows(API, "option")
    listed = {_spans(row["option"])[0]: _spans(row["default"])[0] for row in rows}
    options = inspect.signature(HybridQueue).parameters.values()
    real = {p.name: p.default for p in options if p.kind is p.KEYWORD_ONLY}
    assert {name: eval(default) for name, default in listed.items()} == real
    choices = {"leftover": Leftover, "on_corruption": OnCorruption, "when_full": WhenFull}
    for row in rows:
        for choice in get_args(choices.get(_spans(row["option"])[0])):
            assert f'`"{choice}"`' in row[""]


def test_the_api_on_one_page_lists_every_member_with_its_parameters() -> None:
    members = [_spans(row["member"])[0] for row in _rows(API, "member")]
    for member in members:
        _check(f"HybridQueue.{member}")
    public = {name for name in vars(HybridQueue) if not name.startswith("_")}
    assert {member.partition("(")[0] for member in members} == public


def test_the_page_on_asyncio_lists_every_member_with_its_parameters() -> None:
    members = [
        span for row in _rows(ASYNCIO, "asyncio member") for span in _spans(row["asyncio member"])
    ]
    for member in members:
        _check(f"AsyncHybridQueue.{member}")
    public = {name for name in vars(AsyncHybridQueue) if not name.startswith("_")}
    assert {member.partition("(")[0] for member in members} == public
    assert _parameters(AsyncHybridQueue) == _parameters(HybridQueue)


def test_the_api_on_one_page_lists_every_error() -> None:
    listed = [_spans(row["error"])[0] for row in _rows(API, "error")]
    assert sorted(listed) == sorted(errors.__all__)


def test_the_api_on_one_page_lists_every_statistic_in_order() -> None:
    listed = [_spans(row["field"])[0] for row in _rows(API, "field")]
    assert listed == [field.name for field in dataclasses.fields(QueueStats)]


def test_the_api_on_one_page_lists_every_backend_with_its_promises_and_options() -> None:
    rows = {_spans(row["backend"])[0]: row for row in _rows(API, "backend")}
    assert set(rows) == {module.name for module in pkgutil.iter_modules(hq_backends.__path__)}
    for name, row in rows.items():
        backend = registry.load(name)
        promised = {c.name for c in Capability if c in backend.capabilities}
        assert set(_spans(row["promises"])) == promised
        options = registry.options(backend).values()
        assert _spans(row["options"]) == [f"{p.name}={p.default!r}" for p in options]


# ---- the backend API -------------------------------------------------------------------------


def _first_spans(heading: str) -> list[str]:
    return [_spans(row[heading])[0] for row in _rows(BACKEND_API, heading)]


def test_every_method_of_a_backend_is_documented_with_its_parameters() -> None:
    calls = _first_spans("call")
    for call in calls:
        _check(f"OverflowBackend.{call}")
    methods = {n for n, m in vars(OverflowBackend).items() if inspect.isfunction(m) and n[0] != "_"}
    assert {call.partition("(")[0] for call in calls} == methods


def test_every_attribute_of_a_backend_is_documented() -> None:
    assert set(_first_spans("attribute")) == set(OverflowBackend.__annotations__)


def test_every_member_of_the_tools_is_documented_with_its_parameters() -> None:
    listed = _first_spans("tool")
    for tool in listed:
        if "(" in tool:
            _check(f"SpoolTools.{tool}")
    methods = {n for n, m in vars(SpoolTools).items() if inspect.isfunction(m) and n[0] != "_"}
    assert {t.partition("(")[0] for t in listed} == methods | set(SpoolTools.__annotations__)


def test_every_field_of_a_stream_is_documented_with_its_default() -> None:
    fields = {
        field.name: dataclasses.MISSING if callable(field.default) else field.default
        for field in dataclasses.fields(Stream)
    }
    rows = _rows(BACKEND_API, "stream field")
    listed = {
        _spans(row["stream field"])[0]: eval(
            row["default"].strip("`") or "MISSING", vars(dataclasses)
        )
        for row in rows
    }
    assert listed == fields


def test_every_capability_is_documented() -> None:
    assert _first_spans("capability") == [capability.name for capability in Capability]


def test_every_hook_is_documented_with_its_parameters() -> None:
    hooks = {
        name
        for name, value in vars(hookspecs).items()
        if hasattr(value, f"{hookspecs.PROJECT}_spec")
    }
    listed = _first_spans("hook")
    for hook in listed:
        _check(f"hq_core.hookspecs.{hook}")
    assert {hook.partition("(")[0] for hook in listed} == hooks


def test_every_error_that_means_something_to_the_queue_exists() -> None:
    assert set(_first_spans("raise")) <= set(errors.__all__)


def test_the_version_policy_is_about_the_version_there_is() -> None:
    assert f"`API_VERSION` is {API_VERSION}." in BACKEND_API.read_text("utf-8")


@pytest.mark.parametrize("row", _rows(CHOOSING, "backend"), ids=lambda row: row["backend"])
def test_the_guide_to_choosing_says_what_the_backends_say(row: Row) -> None:
    name = _spans(row["backend"])[0]
    if name not in {found.name for found in registry.installed() if found.backend}:
        pytest.skip(f"{name} is not installed")
    backend = registry.load(name)
    assert set(re.findall("[A-Z]+_[A-Z]+|DURABLE", row["promises"])) == {
        c.name for c in Capability if c in backend.capabilities
    }
    options = registry.options(backend).values()
    assert _spans(row["options"]) == [f"{p.name}={p.default!r}" for p in options]


def test_the_table_of_metrics_is_the_one_they_are_made_from() -> None:
    def label(metric: Metric) -> str:
        values = ", ".join(f"`{value}`" for value in metric.values)
        return f"`{metric.label}`: {values}" if metric.label else ""

    assert _rows(MONITORING, "OpenTelemetry") == [
        {
            "metric": f"`{metric.prometheus_name}`",
            "OpenTelemetry": f"`{metric.name}`",
            "unit": f"`{metric.unit}`",
            "kind": metric.kind,
            "label": label(metric),
            "": metric.help,
        }
        for metric in METRICS
    ]
    most = sum(len(metric.values) for metric in METRICS)
    assert f"never more than {most} series" in _prose(MONITORING)


def test_every_alert_is_explained() -> None:
    (group,) = yaml.safe_load((ROOT / "docs/monitoring/alerts.yml").read_text("utf-8"))["groups"]
    explained = [_spans(row["alert"])[0] for row in _rows(MONITORING, "alert")]
    assert explained == [rule["alert"] for rule in group["rules"]]


def _worked_example() -> type[OverflowBackend]:
    """The class that the guide to writing a backend shows."""
    namespace: dict[str, Any] = {"__name__": "hq_shelf"}
    (source,) = [block.text for block in _blocks(GUIDE) if "class Shelf:" in block.text]
    exec(compile(source, GUIDE, "exec", dont_inherit=True), namespace)
    found: type[OverflowBackend] = namespace["Shelf"]
    return found


@pytest.mark.slow
class TestTheWorkedExample(BackendConformance):
    backend = _worked_example()


# ---- the file format -------------------------------------------------------------------------


def test_the_worked_example_is_what_the_queue_writes(tmp_path: Path) -> None:
    example = b""
    for row in _rows(FORMAT, "offset"):
        assert int(row["offset"]) == len(example)
        example += bytes.fromhex(_spans(row["bytes"])[0])
    with HybridQueue("camera-1", 1, tmp_path) as overflowing:
        overflowing.enqueue_many([b"one"])
        overflowing.enqueue_many([b"two", b"", b"three"])
        assert (tmp_path / "camera-1.overflow").read_bytes() == example
        overflowing.dequeue_many(4)
    assert b"".join(Plain().encode([b"two", b"", b"three"])) == example


def test_the_file_names_shown_are_those_made() -> None:
    shown = {
        "".join(_spans(row["stream id"])): _spans(row["name"])[0]
        for row in _rows(FORMAT, "stream id")
    }
    assert len(shown) >= 8
    assert {name: file_name(name) for name in shown} == shown
    assert [stream_id(name) for name in shown.values()] == list(shown)


# ---- rules and links -------------------------------------------------------------------------


def test_every_rule_is_listed_with_tests_that_exist() -> None:
    rows = _rows(SPECIFICATION, "shown by")
    assert [row[""] for row in rows] == [f"R{number}" for number in range(1, 16)]
    paths = [path for row in rows for path in _spans(row["shown by"])]
    assert [path for path in paths if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", _prose(path)):
        if re.match(r"https?:|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in _slugs(target), link


# ---- the site --------------------------------------------------------------------------------


def test_every_page_is_in_the_navigation_once() -> None:
    lines = (ROOT / "mkdocs.yml").read_text("utf-8").splitlines()
    nav = lines[lines.index("nav:") + 1 :]
    listed = [m[1] for line in nav if (m := re.fullmatch(r" +- [^#]*: (\S+\.md)", line))]
    assert sorted(listed) == sorted(str(path.relative_to(ROOT / "docs")) for path in DOCS)


def test_every_public_name_is_in_the_reference() -> None:
    pages = sorted(ROOT.glob("docs/reference/*.md"))
    listed = re.findall(
        r"^::: (\S+)$", "\n".join(p.read_text("utf-8") for p in pages), re.MULTILINE
    )
    assert {f"hq_core.{name}" for name in hq_core.__all__} - set(listed) == set()
    assert {f"hq_core.testing.{name}" for name in hq_core.testing.__all__} - set(listed) == set()
    metrics = {"hq_metrics.prometheus.QueueCollector", "hq_metrics.otel.QueueInstruments"}
    assert metrics - set(listed) == set()
    assert len(listed) == len(set(listed))
