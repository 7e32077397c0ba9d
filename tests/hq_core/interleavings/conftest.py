import pytest

from tests.hq_core.interleavings.world import World, new_world, patch


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> World:
    world = new_world(request)
    patch(world, monkeypatch)
    return world
