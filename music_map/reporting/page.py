"""The page of a report: one HTML file that needs nothing else, from JSON-able findings."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import jinja2
from markupsafe import Markup

from music_map.evaluation.metrics import METRICS
from music_map.reporting import charts, curves

# Of the table of results; those that the protocol has not are left out.
_COLUMNS = ("recall@20", "hit_rate@20", "coverage@20", "recall@100", "ndcg@100")
_SPOKEN = {
    "model": "model",
    "model_without_recency": "model without recency",
    "model_without_filter": "model without graph filter",
}


def render(findings: Mapping[str, Any]) -> str:
    """The page.

    Args:
      findings: "metric"; "top": what its cut-off is called; "data" (distributions.data_facts); "baselines": names;
        "runs": a list of {"name", "workdir", "step", "seconds", "report" (evaluate.summary), "lines" (of
        metrics.jsonl), "slices", "exposure", "examples", "playlist"}; "compared": {run: evaluate.compare of the first
        run and it}; "targets" (exposure of the targets); "config": rows {"field", "values" by run, "default",
        "differs", "changed"}; "commands": lines; "version".

    Returns:
      HTML.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("music_map.reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": _figure, "signed": lambda x: f"{x:+.4f}", "count": lambda x: f"{x:,}"}
    environment.globals |= {
        "meaning": {name: metric.meaning for name, metric in METRICS.all().items()},
        "spoken": lambda name: _SPOKEN.get(name, name),
    }
    # "</script>" must not end the block of JSON.
    data = json.dumps(_without_lines(findings), allow_nan=False).replace("<", "\\u003c")
    return environment.get_template("page.html.j2").render(
        **findings,
        first=findings["runs"][0],
        rows=_rows(findings),
        columns=_columns(findings),
        curves=[Markup(figure) for figure in _learning(findings)],
        charts={name: Markup(svg) for name, svg in _charts(findings).items()},
        slice_groups=_slice_groups(findings),
        headlines=[_headline(run, findings) for run in findings["runs"]],
        json=Markup(data),
    )


def _without_lines(findings: Mapping[str, Any]) -> dict[str, Any]:
    runs = [{name: value for name, value in run.items() if name != "lines"} for run in findings["runs"]]
    return {**findings, "runs": runs}


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _columns(findings: Mapping[str, Any]) -> list[str]:
    model = findings["runs"][0]["report"]["model"]
    metric = findings["metric"]
    columns = [metric, *(name for name in _COLUMNS if name in model and name != metric)]
    return columns


def _rows(findings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table of results: every form of every run, then the baselines, with the first run's differences."""
    metric, runs = findings["metric"], findings["runs"]
    rows = []
    for number, run in enumerate(runs):
        report = run["report"]
        for form in _SPOKEN:
            if form not in report:
                continue
            name = _SPOKEN[form] if len(runs) == 1 else f"{run['name']}: {_SPOKEN[form]}"
            minus = None  # the first run's "model" is what the others are taken from
            if number == 0 and form != "model":
                minus = report["intervals"]["model_minus"][form].get(metric)
            elif number and form == "model":
                minus = findings["compared"][run["name"]].get(metric, {}).get("interval")
            rows.append(
                {
                    "name": name,
                    "series": number,
                    "main": form == "model",
                    "metrics": report[form],
                    "intervals": report["intervals"][form],
                    "difference": minus
                    and {"value": runs[0]["report"]["model"][metric] - report[form][metric], "interval": minus},
                }
            )
    report = runs[0]["report"]
    for number, name in enumerate(findings["baselines"]):
        minus = report["intervals"]["model_minus"][name].get(metric)
        rows.append(
            {
                "name": name,
                "series": len(runs) + number,
                "main": False,
                "metrics": report["baselines"][name],
                "intervals": report["intervals"]["baselines"][name],
                "difference": minus
                and {"value": report["model"][metric] - report["baselines"][name][metric], "interval": minus},
            }
        )
    return rows


def _headline(run: Mapping[str, Any], findings: Mapping[str, Any]) -> dict[str, Any]:
    """What came out, in a sentence and a few numbers."""
    metric, report = findings["metric"], run["report"]
    value = report["model"][metric]
    found = {"name": run["name"], "value": value, "interval": report["intervals"]["model"].get(metric), "best": None}
    if not findings["baselines"]:
        return found
    best = max(findings["baselines"], key=lambda name: report["baselines"][name][metric])
    beside = report["baselines"][best][metric]
    minus = report["intervals"]["model_minus"][best].get(metric)
    verdict = "differs from"
    if minus is not None:
        verdict = "beats" if minus[0] > 0 else "loses to" if minus[1] < 0 else "differs by no more than chance from"
    change = None if beside == 0 else value / beside - 1
    return found | {"best": best, "beside": beside, "minus": minus, "verdict": verdict, "change": change}


def _slice_groups(findings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Slices by group: each with its parts, and the scorers that are shown."""
    groups: dict[str, list[dict[str, Any]]] = {}
    runs = findings["runs"]
    for at, part in enumerate(runs[0]["slices"]):
        cells = []
        for run in runs:
            each = run["slices"][at]
            cells.append((each["values"]["model"], each["intervals"]["model"]))
        cells += [(part["values"][name], part["intervals"][name]) for name in findings["baselines"]]
        groups.setdefault(part["group"], []).append({**part, "cells": cells})
    names = ["model" if len(runs) == 1 else run["name"] for run in runs] + list(findings["baselines"])
    return [{"name": name, "parts": parts, "scorers": names} for name, parts in groups.items()]


def _charts(findings: Mapping[str, Any]) -> dict[str, str]:
    metric, runs, data = findings["metric"], findings["runs"], findings["data"]
    rows = _rows(findings)
    drawn = {
        "results": charts.intervals(
            [(r["name"], r["metrics"][metric], r["intervals"][metric], r["series"]) for r in rows],
            title=f"{metric}, 95 % intervals", label=f"{metric} of model and baselines with intervals", zero=False,
        ),
        "degrees": charts.tails(
            {"users": data["users"], "songs": data["songs"]},
            title="Users and songs with at least x edges", x="edges in train", label="degrees of users and songs",
        ),
        "weights": charts.histogram(
            data["weights"]["edges"], data["weights"]["counts"],
            title="Edge weights (to the 99.9th percentile)", x="weight", label="distribution of edge weights",
        ),
    }  # fmt: skip
    differences = [
        (r["name"], r["difference"]["value"], r["difference"]["interval"], r["series"]) for r in rows if r["difference"]
    ]
    if differences:
        first = "model" if len(runs) == 1 else runs[0]["name"]
        drawn["differences"] = charts.intervals(
            differences, title=f"{first} minus the row, {metric}", label="paired differences with intervals", zero=True
        )
    if any(data["played"]["counts"]):
        drawn["played"] = charts.histogram(
            data["played"]["edges"], data["played"]["counts"],
            title="How much of a song was played (train)", x="played, % of the track", label="played ratios",
        )  # fmt: skip
    if data["days"] is not None:
        drawn["days"] = charts.days(data["days"], title="Events a day", label="events of each day by split")
    names = ["model" if len(runs) == 1 else run["name"] for run in runs]
    shown = {name: run["exposure"]["model"]["tenths"] for name, run in zip(names, runs, strict=True)}
    shown |= {name: runs[0]["exposure"][name]["tenths"] for name in findings["baselines"]}
    shown |= {"what users played next": findings["targets"]["tenths"]}
    drawn["exposure"] = charts.shares(
        shown, title="What is shown, by popularity", label="share of recommendations by popularity of the song",
        dashed=("what users played next",),
    )  # fmt: skip
    return drawn


def _learning(findings: Mapping[str, Any]) -> list[str]:
    """Figures of the quantities that any run has logged, by step."""
    metric, runs = findings["metric"], findings["runs"]
    titles = {
        "train/loss": "training loss",
        f"val/{metric}": f"validation {metric}",
        "train/grad_norm": "gradient norm",
    }
    chosen = {run["name"]: run["step"] for run in runs}
    found = []
    for key, title in titles.items():
        points = {}
        for run in runs:
            pairs = [(line["step"], line[key]) for line in run["lines"] if _finite(line.get(key))]
            points[run["name"]] = tuple(zip(*sorted(dict(pairs).items()), strict=True)) or ((), ())
        if any(steps for steps, _ in points.values()):
            found.append(curves.plot(title, points, chosen=chosen if key.startswith("val/") else None))
    return found


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
