"""The alerts and the dashboard: well-formed, and about metrics and labels that exist."""

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest
import yaml
from promql_parser import AggregateExpr, Expr, VectorSelector

from hq_metrics.table import METRICS

ROOT: Final = Path(__file__).parent.parent.parent
ALERTS: Final = ROOT / "docs" / "monitoring" / "alerts.yml"
ALERTS_TESTS: Final = Path(__file__).parent / "alerts.test.yml"
DASHBOARD: Final = ROOT / "docs" / "monitoring" / "dashboard.json"

TABLE: Final = {metric.prometheus_name: metric for metric in METRICS}
SCRAPED: Final = {"job", "instance"}
"""The labels that Prometheus adds to every series."""

Json = dict[str, Any]


def check(expression: str) -> set[str]:
    """Fail unless `expression` is PromQL about series that exist; returns their labels."""
    labels = {"stream", "backend", *SCRAPED}
    names = set()
    groupings = set()

    def visit(node: Expr) -> None:
        if isinstance(node, AggregateExpr) and node.modifier is not None:
            groupings.update(node.modifier.labels)
        if isinstance(node, VectorSelector):
            assert node.name is not None, "a selector without a name reads every series there is"
            names.add(node.name)
            metric = TABLE[node.name]
            own = {metric.label} - {""}
            labels.update(own)
            for matcher in node.matchers.matchers:
                assert matcher.name in {"stream", "backend", *SCRAPED, *own}
                assert matcher.name not in own or matcher.value in metric.values

    promql_parser.walk(promql_parser.parse(expression), visit)
    assert names, "it is about nothing"
    assert groupings <= labels
    return labels


def rules() -> list[Json]:
    (group,) = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    found: list[Json] = group["rules"]
    return found


def dashboard() -> Json:
    found: Json = json.loads(DASHBOARD.read_text("utf-8"))
    return found


def targets() -> list[Json]:
    return [target for panel in dashboard()["panels"] for target in panel["targets"]]


# ---- the check itself ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        "sum(hq_queue_size",
        "rate(hq_queue_item_enqueued_total)",
        "hq_queue_bytes > 1",
        'hq_queue_usage_bytes{tear="disk"}',
        'hq_queue_usage_bytes{tier="disc"}',
        'hq_queue_size{tier="disk"}',
        "sum by (reason) (hq_queue_size)",
        '{stream="cam"}',
        "1 > 0",
    ],
)
def test_the_check_of_expressions_notices(wrong: str) -> None:
    with pytest.raises((AssertionError, KeyError, ValueError)):
        check(wrong)


# ---- alerts ----------------------------------------------------------------------------------


def test_the_rules_file_has_the_keys_prometheus_knows() -> None:
    content = yaml.safe_load(ALERTS.read_text("utf-8"))
    assert set(content) == {"groups"}
    (group,) = content["groups"]
    assert set(group) == {"name", "rules"}
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) == 4


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_a_rule_is_as_prometheus_wants_it(rule: Json) -> None:
    assert {"alert", "expr", "labels", "annotations"} <= set(rule)
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch("HybridQueue[A-Z][A-Za-z]+", rule["alert"])
    labels = check(rule["expr"])
    assert promql_parser.parse_duration(rule.get("for", "1s")).total_seconds() <= 300
    assert set(rule["labels"]) == {"severity"}
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "description"}
    for text in rule["annotations"].values():
        templates = re.findall(r"{{ (.*?) }}", text)
        assert text.count("{{") == text.count("}}") == len(templates)
        for template in templates:
            used = re.fullmatch(
                r"\$labels\.(\w+)|\$value \| humanize(?:Duration|1024|Percentage)?", template
            )
            assert used, template
            assert used[1] is None or used[1] in labels


needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed"
)


@needs_promtool
@pytest.mark.parametrize(
    "command", [["check", "rules", str(ALERTS)], ["test", "rules", str(ALERTS_TESTS)]]
)
def test_promtool_has_nothing_to_say(command: list[str]) -> None:
    subprocess.run(["promtool", *command], check=True)


# ---- the dashboard ---------------------------------------------------------------------------


@pytest.mark.parametrize("target", targets(), ids=lambda target: target["expr"])
def test_a_query_of_the_dashboard_is_about_series_that_exist(target: Json) -> None:
    expression = target["expr"]
    assert '{job=~"$job", instance=~"$instance", stream=~"$stream"' in expression
    for variable in re.findall(r"\$\w+", expression):
        assert variable in {"$job", "$instance", "$stream", "$__rate_interval"}
    labels = check(re.sub(r'=~"\$\w+"', '!=""', expression).replace("$__rate_interval", "5m"))
    assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels


def test_the_dashboard_shows_every_metric() -> None:
    shown = set(re.findall(r"\bhq_\w+", " ".join(target["expr"] for target in targets())))
    assert shown == set(TABLE)


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places: set[tuple[int, int]] = set()
    for panel in panels:
        grid = panel["gridPos"]
        assert 0 <= grid["x"] < grid["x"] + grid["w"] <= 24
        cells = set(
            itertools.product(
                range(grid["x"], grid["x"] + grid["w"]), range(grid["y"], grid["y"] + grid["h"])
            )
        )
        assert not places & cells, panel["title"]
        places |= cells
        assert panel["title"]
        assert panel["description"]


def test_the_dashboard_takes_the_source_of_data_that_the_user_chooses() -> None:
    sources = re.findall(r'"uid": "([^"]+)"', DASHBOARD.read_text("utf-8"))
    assert set(sources) == {"${datasource}", "hybrid-queue"}
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance", "stream"]
    for name in ("job", "instance", "stream"):
        query = variables[name]["query"]["query"]
        assert query == variables[name]["definition"]
        used = re.fullmatch(rf"label_values\((\w+)({{.*}})?, {name}\)", query)
        assert used
        assert used[1] in TABLE
