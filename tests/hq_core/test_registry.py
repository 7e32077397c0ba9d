"""Finding backends by name, and opening them: what plugins do wrong, and what users do."""

import functools
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hq_backends.file import FileBackend
from hq_core import (
    API_VERSION,
    BackendError,
    Capability,
    CapabilityError,
    HybridQueue,
    OverflowBackend,
    PluginError,
    Stream,
    registry,
)
from hq_core.protocols import BackendFactory
from hq_core.spool.directory import Directory
from hq_core.testing import MemoryBackend
from tests.installing import Site, site_in

IMPORTS = """
from hq_core.hookspecs import hookimpl
from hq_core.testing import MemoryBackend
"""

GOOD = f"""{IMPORTS}
class Backend(MemoryBackend):
    name = "good"

@hookimpl
def hq_register_backends():
    return [Backend]
"""

MIB = 1024 * 1024


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with site_in(tmp_path / "site") as site:
        yield site


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    spool = tmp_path / "spool"
    spool.mkdir()
    return spool


@pytest.fixture
def stream(spool: Path) -> Iterator[Stream]:
    with Directory(spool) as directory:
        yield directory.stream("s")


def refused(name: str, *words: str) -> None:
    """Loading `name` raises `PluginError` with all of `words` in it."""
    with pytest.raises(PluginError) as refusal:
        registry.load(name)
    assert [word for word in words if word not in str(refusal.value)] == []


# ---- plugins that work -----------------------------------------------------------------------


def test_an_installed_backend_is_found_by_its_name(site: Site, spool: Path) -> None:
    site.install("vendor", "good", GOOD)
    with HybridQueue("s", 1, spool, backend="good") as queue:
        queue.enqueue_many([b"memory", b"overflow"])
        assert queue.has_disk_data
        assert queue.dequeue_many(2) == [b"memory", b"overflow"]


def test_file_is_found_by_its_name() -> None:
    assert registry.load("file") is FileBackend


def test_file_is_the_default(spool: Path) -> None:
    with HybridQueue("s", 1, spool) as queue:
        queue.enqueue_many([b"memory", b"overflow"])
        assert (spool / "s.overflow").exists()


def test_a_plugin_is_asked_once_however_often_it_is_used(site: Site) -> None:
    counting = GOOD.replace("    return", "    calls.append(1)\n    return")
    site.install("vendor", "good", f"calls = []{counting}")
    first = registry.load("good")
    assert registry.load("good") is first
    assert sys.modules["plugin_of_vendor"].calls == [1]


def test_only_the_plugin_asked_for_is_imported(site: Site, spool: Path) -> None:
    site.install("vendor", "good", GOOD)
    site.install("other", "other", GOOD)
    HybridQueue("s", 1, spool, backend="good").close()
    HybridQueue("s", 1, spool, backend="file").close()
    assert "plugin_of_vendor" in sys.modules
    assert "plugin_of_other" not in sys.modules


def test_the_names_are_told_without_loading_anything(site: Site) -> None:
    site.install("vendor", "good", "raise AssertionError('imported')")
    assert {"file", "lmdb", "good"} <= set(registry.names())
    assert "plugin_of_vendor" not in sys.modules


def test_the_class_is_told_of_whatever_shows_it(site: Site) -> None:
    site.install("vendor", "good", GOOD)
    good = registry.load("good")
    for backend in ("good", good, functools.partial(good)):
        assert registry.class_of(backend) is good
    assert registry.class_of(lambda stream: good(stream)) is None  # type: ignore[call-arg] # a factory
    with pytest.raises(PluginError, match="no backend named 'missing'"):
        registry.class_of("missing")


def test_a_plugin_may_offer_further_classes_under_other_names(site: Site) -> None:
    both = GOOD.replace("[Backend]", "[MemoryBackend, Backend]")
    site.install("vendor", "good", both)
    site.install("vendor2", "memory", both)
    assert registry.load("good").name == "good"
    assert registry.load("memory").name == "memory"


# ---- plugins that do not ---------------------------------------------------------------------


def test_an_unknown_name_is_refused_with_a_list_of_the_installed_ones(site: Site) -> None:
    site.install("vendor", "good", GOOD)
    refused("god", "'god'", "file", "good", "install the package", "Correct the name")


def test_two_distributions_with_one_name_are_refused_and_both_named(site: Site) -> None:
    site.install("vendor", "good", GOOD, version="1.5")
    site.install("rival", "good", GOOD, version="2.0")
    refused("good", "rival 2.0", "vendor 1.5", "Uninstall all but one", "backend=")


@pytest.mark.parametrize("version", ["0", "2", "'1'", "None"])
def test_a_backend_for_another_api_version_is_refused_and_both_versions_named(
    site: Site, version: str
) -> None:
    site.install(
        "vendor", "good", GOOD.replace("    name", f"    api_version = {version}\n    name")
    )
    refused("good", "vendor 1", version.strip("'"), str(API_VERSION), "install versions")


def test_a_backend_without_an_api_version_is_refused(site: Site) -> None:
    code = GOOD.replace("class Backend(MemoryBackend)", "class Backend")
    site.install("vendor", "good", code)
    refused("good", "API version None")


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("import not_installed_anywhere", "not_installed_anywhere"),
        ("from hq_core import NoSuchName", "NoSuchName"),
        (None, "plugin_of_vendor"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused_with_the_reason(
    site: Site, code: str | None, word: str
) -> None:
    site.install("vendor", "good", code)
    refused("good", "'good' from vendor 1", "cannot be imported", word)


@pytest.mark.parametrize(
    "code", ["raise RuntimeError('no licence')", "1 / 0", "def broken(:", "raise ValueError('no')"]
)
def test_a_module_that_fails_is_refused_as_broken_from_the_original_error(
    site: Site, code: str
) -> None:
    site.install("vendor", "good", code)
    with pytest.raises(PluginError, match="'good' from vendor 1 is broken") as refusal:
        registry.load("good")
    cause = refusal.value.__cause__
    assert type(cause).__name__ in str(refusal.value)


def test_a_missing_extra_is_answered_with_what_to_install(site: Site) -> None:
    site.install("vendor", "good", "import not_installed_anywhere", extra="fast")
    refused("good", "pip install 'vendor[fast]'", "not_installed_anywhere")


def test_a_plugin_with_its_extra_installed_is_loaded(site: Site) -> None:
    site.install("vendor", "good", GOOD, extra="fast")
    assert registry.load("good").name == "good"


def test_an_import_that_fails_in_the_hook_counts_as_the_plugins(site: Site) -> None:
    late = GOOD.replace("    return", "    import not_installed_anywhere\n    return")
    site.install("vendor", "good", late, extra="fast")
    refused("good", "pip install 'vendor[fast]'")


@pytest.mark.parametrize(
    "code",
    [
        GOOD.partition("@hookimpl")[0],
        GOOD.replace("@hookimpl\n", ""),
        "",
    ],
    ids=["no function", "not marked", "empty module"],
)
def test_a_plugin_without_the_hook_is_refused(site: Site, code: str) -> None:
    site.install("vendor", "good", code)
    refused("good", "'good' from vendor 1", "must register one class", "registers nothing")


def test_a_misspelt_hook_is_refused_and_named(site: Site) -> None:
    site.install("vendor", "good", GOOD.replace("hq_register_backends", "hq_register_backend"))
    refused("good", "'good' from vendor 1 is broken", "'hq_register_backend'")


def test_a_hook_with_parameters_it_will_not_get_is_refused(site: Site) -> None:
    site.install("vendor", "good", GOOD.replace("backends()", "backends(config)"))
    refused("good", "'good' from vendor 1 is broken", "config")


def test_a_hook_that_fails_is_refused(site: Site) -> None:
    site.install("vendor", "good", GOOD.replace("return [Backend]", "raise KeyError('home')"))
    refused("good", "'good' from vendor 1 is broken", "KeyError", "home")


def test_a_hook_that_returns_a_class_and_no_list_is_refused(site: Site) -> None:
    site.install("vendor", "good", GOOD.replace("[Backend]", "Backend"))
    refused("good", "'good' from vendor 1 is broken")


def test_two_classes_of_the_same_name_are_refused(site: Site) -> None:
    site.install("vendor", "good", GOOD.replace("[Backend]", "[Backend, Backend]"))
    refused("good", "must register one class", "registers 'good', 'good'")


def test_classes_of_other_names_only_are_refused_and_named(site: Site) -> None:
    site.install("vendor", "good", GOOD.replace("[Backend]", "[MemoryBackend]"))
    refused("good", "must register one class whose name is 'good'", "registers 'memory'")


@pytest.mark.parametrize("nothing", ["[]", "None"])
def test_a_hook_that_offers_nothing_is_refused(site: Site, nothing: str) -> None:
    site.install("vendor", "good", GOOD.replace("[Backend]", nothing))
    refused("good", "must register one class", "registers nothing")


def test_a_class_that_lacks_methods_is_refused_and_they_are_named(site: Site) -> None:
    lacking = """
from hq_core import Capability
from hq_core.hookspecs import hookimpl

class Backend:
    name, api_version, capabilities = "good", 1, Capability.NONE
    def append(self, records): ...
    def read(self, skip, max_records, max_bytes): ...

@hookimpl
def hq_register_backends():
    return [Backend]
"""
    site.install("vendor", "good", lacking)
    missing = ("trim", "sync", "depth", "size_bytes", "cost", "close")
    refused("good", "'good' from vendor 1", *missing)
    with pytest.raises(PluginError) as refusal:
        registry.load("good")
    assert "append" not in str(refusal.value)


def test_a_method_that_only_the_protocol_has_is_a_method_that_is_missing(site: Site) -> None:
    code = """
from hq_core import Capability, OverflowBackend
from hq_core.hookspecs import hookimpl

class Backend(OverflowBackend):
    name, api_version, capabilities = "good", 1, Capability.NONE
    def append(self, records): ...
    def read(self, skip, max_records, max_bytes): ...
    def trim(self, count): ...
    def sync(self): ...
    def depth(self): ...
    def size_bytes(self): ...
    def close(self, *, delete): ...

@hookimpl
def hq_register_backends():
    return [Backend]
"""
    site.install("vendor", "good", code)
    refused("good", "lacks, or has the wrong type of: cost")


def test_an_opened_backend_that_lacks_a_method_is_refused(stream: Stream) -> None:
    class Costless(MemoryBackend):
        cost = OverflowBackend.cost

    with pytest.raises(PluginError, match="wrong type of: cost"):
        registry.open_backend(lambda stream: Costless(stream), stream, {})


@pytest.mark.parametrize("attribute", ["capabilities = None", "cost = 4", "sync = 5"])
def test_a_class_with_an_attribute_of_the_wrong_type_is_refused_and_it_is_named(
    site: Site, attribute: str
) -> None:
    site.install("vendor", "good", GOOD.replace("    name", f"    {attribute}\n    name"))
    refused("good", "'good' from vendor 1", attribute.split(" ", maxsplit=1)[0])


BROKEN = {
    "import": "import not_installed_anywhere",
    "crash": "raise RuntimeError",
    "syntax": "def broken(:",
    "no_hook": "",
    "misspelt": GOOD.replace("hq_register_backends", "hq_register_backend"),
    "version": GOOD.replace("    name", "    api_version = 99\n    name"),
}


@pytest.mark.parametrize("code", BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_leaves_the_others_usable(site: Site, spool: Path, code: str) -> None:
    site.install("wreck", "bad", code)
    site.install("vendor", "good", GOOD)
    for backend in ("file", "good"):
        with HybridQueue("s", 1, spool, backend=backend) as queue:
            queue.enqueue_many([b"memory", b"overflow"])
            assert queue.dequeue_many(2) == [b"memory", b"overflow"]


@pytest.mark.parametrize("code", BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_listed_with_the_reason_and_the_others_without(
    site: Site, code: str
) -> None:
    site.install("wreck", "bad", code, version="0.1")
    site.install("vendor", "good", GOOD, version="1.5")
    listed = {found.name: found for found in registry.installed()}
    bad, good, file = listed["bad"], listed["good"], listed["file"]
    assert (bad.backend, bad.distribution) == (None, "wreck 0.1")
    assert "'bad' from wreck 0.1" in bad.error
    assert good.backend is not None
    assert (good.backend.name, good.distribution, good.error) == ("good", "vendor 1.5", "")
    assert (file.backend, file.error) == (FileBackend, "")


def test_a_name_that_two_distributions_give_is_listed_for_both_of_them(site: Site) -> None:
    site.install("vendor", "good", GOOD)
    site.install("rival", "good", GOOD)
    listed = [found for found in registry.installed() if found.name == "good"]
    assert sorted(found.distribution for found in listed) == ["rival 1", "vendor 1"]
    assert all(found.backend is None and "several packages" in found.error for found in listed)


def test_a_plugin_that_was_broken_can_be_loaded_once_it_is_mended(site: Site) -> None:
    site.install("vendor", "good", "import not_installed_anywhere")
    refused("good")
    (site.folder / "vendor" / "plugin_of_vendor.py").write_text(GOOD)
    assert registry.load("good").name == "good"


# ---- options ---------------------------------------------------------------------------------


class Optional(MemoryBackend):
    """A backend with options."""

    name: ClassVar[str] = "optional"

    def __init__(self, stream: Stream, *, size: int = 1, colour: str = "blue") -> None:
        if not isinstance(size, int):
            raise TypeError(f"size must be an int, not {size!r}")
        super().__init__(stream)
        self.size = size
        self.colour = colour


def make_optional(stream: Stream, *, size: int = 1, colour: str = "blue") -> OverflowBackend:
    return Optional(stream, size=size, colour=colour)


@pytest.mark.parametrize("factory", [Optional, make_optional, functools.partial(Optional, size=3)])
def test_the_options_of_a_factory_are_its_keyword_only_parameters(factory: BackendFactory) -> None:
    assert list(registry.options(factory)) == ["size", "colour"]


@pytest.mark.parametrize("factory", [Optional, make_optional, functools.partial(Optional, size=3)])
def test_an_unknown_option_is_refused_with_a_list_of_the_known_ones(
    spool: Path, factory: BackendFactory
) -> None:
    with pytest.raises(ValueError, match=r"no option 'weight'; its options: size, colour"):
        HybridQueue("s", 1, spool, backend=factory, backend_options={"weight": 1})


def test_an_unknown_option_of_a_named_backend_is_refused_with_its_name(spool: Path) -> None:
    known = ", ".join(registry.options(FileBackend))
    assert "read_ahead" in known
    with pytest.raises(ValueError, match="'file' has no option 'weight'") as refusal:
        HybridQueue("s", 1, spool, backend_options={"weight": 1})
    assert str(refusal.value).endswith(known)


def test_a_backend_without_options_says_so(spool: Path) -> None:
    with pytest.raises(ValueError, match="its options: none"):
        HybridQueue("s", 1, spool, backend=MemoryBackend, backend_options={"size": 1})


def test_the_stream_is_no_option(spool: Path) -> None:
    with pytest.raises(ValueError, match="no option 'stream'"):
        HybridQueue("s", 1, spool, backend=Optional, backend_options={"stream": 1})


def test_options_reach_the_backend(stream: Stream) -> None:
    opened = registry.open_backend(Optional, stream, {"size": 7})
    assert isinstance(opened, Optional)
    assert (opened.size, opened.colour) == (7, "blue")


def test_an_option_overrides_that_of_a_partial(stream: Stream) -> None:
    opened = registry.open_backend(functools.partial(Optional, size=3), stream, {"size": 7})
    assert isinstance(opened, Optional)
    assert opened.size == 7


@pytest.mark.parametrize("wrong", [0, -1, MIB + 1, "65536", 65536.0, None, True])
def test_a_value_that_a_backend_refuses_is_its_own_error(spool: Path, wrong: object) -> None:
    with pytest.raises(ValueError, match="read_ahead must be 65536 to 1048576"):
        HybridQueue("s", 1, spool, backend_options={"read_ahead": wrong})
    with pytest.raises(TypeError, match="size must be an int"):
        HybridQueue("s", 1, spool, backend=Optional, backend_options={"size": "7"})


def test_a_refused_option_opens_nothing(spool: Path) -> None:
    for options in ({"weight": 1}, {"read_ahead": 0}):
        with pytest.raises(ValueError, match=r"weight|read_ahead"):
            HybridQueue("s", 1, spool, backend_options=options)
    assert list(spool.iterdir()) == []


# ---- factories -------------------------------------------------------------------------------

FACTORIES: Mapping[str, BackendFactory] = {
    "class": FileBackend,
    "lambda": lambda stream: FileBackend(stream),
    "partial": functools.partial(FileBackend, read_ahead=MIB),
}


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_a_factory_opens_the_backend(spool: Path, factory: BackendFactory) -> None:
    with HybridQueue("s", 1, spool, backend=factory) as queue:
        queue.enqueue_many([b"memory", b"overflow"])
        assert (spool / "s.overflow").exists()
        assert queue.dequeue_many(2) == [b"memory", b"overflow"]


def test_a_factory_gets_the_stream(spool: Path) -> None:
    got: list[Stream] = []

    def factory(stream: Stream) -> OverflowBackend:
        got.append(stream)
        return MemoryBackend(stream)

    HybridQueue(
        "A/b",
        1,
        spool,
        backend=factory,
        max_overflow_bytes=99,
        leftover="refuse",
        on_corruption="raise",
    ).close()
    (stream,) = got
    assert (stream.stream_id, stream.file_name, stream.directory) == ("A/b", "%41%2fb", spool)
    assert (stream.max_bytes, stream.leftover, stream.on_corruption) == (99, "refuse", "raise")
    assert not stream.durable


@pytest.mark.parametrize("wrong", [5, None, ["file"], b"file"])
def test_a_backend_that_is_neither_name_nor_factory_is_refused(spool: Path, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"must be a name or a factory, not .*backend='file'"):
        HybridQueue("s", 1, spool, backend=wrong)


@pytest.mark.parametrize(
    "error", [OSError(5, "disk on fire"), RuntimeError("no quorum"), KeyError("lost")]
)
def test_a_factory_that_fails_is_a_backend_error_from_the_original(
    spool: Path, error: Exception
) -> None:
    def factory(stream: Stream) -> OverflowBackend:
        raise error

    with pytest.raises(BackendError, match=r"cannot open the overflow of 'camera'") as failure:
        HybridQueue("camera", 1, spool, backend=factory)
    assert failure.value.__cause__ is error
    assert str(error) in str(failure.value)


def test_what_a_backend_raises_on_purpose_comes_out_as_it_is(spool: Path) -> None:
    error = BackendError("of its own")

    def factory(stream: Stream) -> OverflowBackend:
        raise error

    with pytest.raises(BackendError) as failure:
        HybridQueue("s", 1, spool, backend=factory)
    assert failure.value is error


class Closing(MemoryBackend):
    """Promises nothing, and notes how it was closed."""

    capabilities: ClassVar[Capability] = Capability.NONE
    closings: ClassVar[list[bool]] = []

    def close(self, *, delete: bool) -> None:
        super().close(delete=delete)
        self.closings.append(delete)


class Old(Closing):
    """Written for an API version that never was."""

    api_version: ClassVar[int] = 0


@pytest.fixture
def closings() -> Sequence[bool]:
    Closing.closings.clear()
    return Closing.closings


def test_a_factory_of_another_api_version_is_refused_and_what_it_opened_is_closed(
    spool: Path, closings: Sequence[bool]
) -> None:
    with pytest.raises(PluginError, match="API version 0"):
        HybridQueue("s", 1, spool, backend=lambda stream: Old(stream))
    assert closings == [False]


@pytest.mark.parametrize("thing", [None, 5, object()])
def test_a_factory_of_something_else_is_refused(spool: Path, thing: Any) -> None:
    with pytest.raises(PluginError, match=r"the backend that .* opened"):
        HybridQueue("s", 1, spool, backend=lambda stream: thing)


# ---- capabilities ----------------------------------------------------------------------------


class Volatile(FileBackend):
    """`FileBackend` without a promise."""

    name: ClassVar[str] = "volatile"
    capabilities: ClassVar[Capability] = Capability.NONE


class Durable(MemoryBackend):
    """Promises what it does not keep."""

    capabilities: ClassVar[Capability] = Capability.DURABLE


def test_a_promise_that_is_not_made_is_refused_and_named(spool: Path) -> None:
    with pytest.raises(CapabilityError, match=r"'volatile' does not promise DURABLE.*durable=True"):
        HybridQueue("s", 1, spool, backend=Volatile, durable=True)


def test_a_promise_that_is_made_is_taken(spool: Path) -> None:
    HybridQueue("s", 1, spool, backend=Durable, durable=True).close()


def test_without_durable_no_promise_is_needed(spool: Path) -> None:
    HybridQueue("s", 1, spool, backend=Volatile).close()


@pytest.mark.parametrize("leftover", ["discard", "quarantine", "resume"])
def test_a_backend_that_does_not_promise_enough_is_not_even_opened(
    spool: Path, leftover: Any
) -> None:
    left = spool / "s.overflow"
    left.write_bytes(b"\0\0\0\4kept")
    with pytest.raises(CapabilityError):
        HybridQueue("s", 1, spool, backend=Volatile, durable=True, leftover=leftover)
    assert [path.name for path in spool.iterdir()] == ["s.overflow"]
    assert left.read_bytes() == b"\0\0\0\4kept"


def test_a_partial_of_a_class_that_does_not_promise_enough_is_not_opened_either(
    spool: Path,
) -> None:
    left = spool / "s.overflow"
    left.write_bytes(b"\0\0\0\4kept")
    factory = functools.partial(Volatile, read_ahead=MIB)
    with pytest.raises(CapabilityError):
        HybridQueue("s", 1, spool, backend=factory, durable=True, leftover="discard")
    assert left.exists()
    assert left.read_bytes() == b"\0\0\0\4kept"


def test_a_factory_whose_backend_does_not_promise_enough_is_closed_and_nothing_deleted(
    spool: Path, closings: Sequence[bool]
) -> None:
    with pytest.raises(CapabilityError):
        HybridQueue("s", 1, spool, backend=lambda stream: Closing(stream), durable=True)
    assert closings == [False]


# ---- imports ---------------------------------------------------------------------------------


def modules_after(code: str) -> set[str]:
    """The modules of a fresh interpreter that has run `code`."""
    root = Path(registry.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        env={**os.environ, "PYTHONPATH": str(root)},
        check=True,
        capture_output=True,
        text=True,
    )
    return set(done.stdout.split())


def backends_in(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] in {"hq_backends", "lmdb"}}


@pytest.mark.slow
def test_importing_the_core_loads_no_backend() -> None:
    modules = modules_after("import hq_core")
    assert "hq_core.registry" in modules
    assert backends_in(modules) == set()


@pytest.mark.slow
def test_opening_a_file_queue_loads_no_other_backend(spool: Path) -> None:
    modules = modules_after(f"import hq_core; hq_core.HybridQueue('s', 1, {str(spool)!r}).close()")
    loaded = {".".join(name.split(".")[:2]) for name in backends_in(modules)}
    assert loaded == {"hq_backends", "hq_backends.file"}
