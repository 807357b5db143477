"""launch/report.py: the page of one run and of two, with the figures of launch/evaluate.py, needing nothing else."""

import html.parser
import json
import re

import pytest
from commands import fails, flags, launch

from music_map.recency.scores import PARTS

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


class Page(html.parser.HTMLParser):
    """Tags with their attributes, cells of the table of results, and the JSON."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.at, self.is_data, self.data = [], {}, None, False, ""
        self.feed(text)
        self.findings = json.loads(self.data)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if "data-metric" in attrs:
            self.at = (attrs["data-row"], attrs["data-metric"])
        self.is_data = attrs.get("id") == "report"

    def handle_endtag(self, tag):
        self.is_data = False

    def handle_data(self, data):
        if self.is_data:
            self.data += data
        if self.at is not None:
            self.cells[self.at] = data.strip()
            self.at = None


def page_of(path):
    text = path.read_text()
    page = Page(text)
    # Nothing is fetched: no address but those that name an XML vocabulary, and no file.
    loads = {"src", "href", "xlink:href", "action", "data", "srcset", "poster"}
    for tag, attrs in page.tags:
        for name in loads & attrs.keys():
            assert attrs[name].startswith(("#", "data:")), (tag, attrs[name])
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", text)
    assert {m for m in re.findall(r"https?://[^\s\"'<)]+", text)} <= {
        "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink",
    }  # fmt: skip
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = re.findall(r"url\(#([^)]+)\)", text) + [a["xlink:href"][1:] for _, a in page.tags if "xlink:href" in a]
    used += [attrs["href"][1:] for tag, attrs in page.tags if tag == "a"]
    assert set(used) <= set(ids)
    return page


def test_the_figures_are_those_of_evaluate(trained, tmp_path):
    base, _ = trained
    launch("evaluate", f"--workdir={base}/work", f"--output={tmp_path}/test.json")
    done = launch("report", f"--workdir={base}/work", f"--output={tmp_path}/page.html", "--quiet")
    result = json.loads((tmp_path / "test.json").read_text())
    page = page_of(tmp_path / "page.html")
    [run] = page.findings["runs"]
    same = ("protocol", "split", "model", "baselines", "intervals", "num_users", "num_targets", "cold_target_share")
    assert {name: run["report"][name] for name in same} == {name: result[name] for name in same}
    assert run["step"] == result["step"]
    columns = {metric for _, metric in page.cells}
    assert {"ndcg@20", "recall@20", "coverage@20"} <= columns
    for name, metrics in {"model": result["model"], **result["baselines"]}.items():
        for metric in columns:
            assert page.cells[name, metric] == f"{metrics[metric]:.4f}"
    assert f"ndcg@20 {result['model']['ndcg@20']:.4f}" in done.stdout

    # Parts of a group are all of it: users' means weighted, targets pooled.
    groups = {}
    for part in run["slices"]:
        groups.setdefault((part["group"], part["of"]), []).append(part)
    for (_, of), parts in groups.items():
        sizes = [part["size"] for part in parts]
        mean = sum(size * part["values"]["model"] for size, part in zip(sizes, parts, strict=True)) / sum(sizes)
        if of == "users":
            assert sum(sizes) == result["num_users"] and mean == pytest.approx(result["model"]["ndcg@20"])
    stats = json.loads(next((base / "processed").glob("events-*/stats.json")).read_text())
    assert page.findings["data"]["funnel"][1]["events"] == stats["total_interactions"]
    days = page.findings["data"]["days"]
    assert [sum(days[split]) for split in ("train", "val", "test")] == [
        stats[f"{split}_size"] for split in ("train", "val", "test")
    ]
    assert sum(page.findings["data"]["played"]["counts"]) == page.findings["data"]["splits"]["train"]["listens"]
    for example in run["examples"]:
        assert len(example["songs"]) == 10 and example["songs"][0]["why"]
        for song in example["songs"]:
            gains = [reason["gain"] for reason in song["why"]]
            assert gains == sorted(gains, reverse=True) and all(reason["text"] for reason in song["why"])
    # The run has a recency head: its parts are the reasons.
    named = {reason["part"] for example in run["examples"] for song in example["songs"] for reason in song["why"]}
    assert named and named <= set(PARTS)
    # The curves have what was logged.
    logged = [json.loads(line) for line in (base / "work" / "metrics.jsonl").read_text().splitlines()]
    figures = [json.loads(attrs["data-lines"]) for _, attrs in page.tags if "data-lines" in attrs]
    shown = {(point[0], point[1]) for figure in figures for line in figure for point in line["points"]}
    validated = [(line["step"], float(f"{line['val/ndcg@20']:.6g}")) for line in logged if "val/ndcg@20" in line]
    assert len(figures) == 3 and validated and set(validated) <= shown


def test_two_runs_side_by_side(trained, raw, tmp_path):
    base, _ = trained
    other = tmp_path / 'a <b> "$x$"'  # a name that HTML and matplotlib would take for their own
    args = [arg for arg in flags(raw, base) if not arg.startswith("--workdir")]
    changed = ["--config.train.num_epochs=1", "--config.train.learning_rate=1e-3"]
    watched = ["--tensorboard", "--profile_steps=3:5"]
    done = launch("train", *args, f"--workdir={other}", *changed, *watched)
    assert f"profile of 2 steps in {other}/profile" in done.stdout and list(other.glob("tensorboard/events*"))
    runs = [f"--workdir={base}/work", f"--workdir={other}"]
    launch("report", *runs, f"--output={tmp_path}/page.html", "--baselines=most_pop", "--split=val")
    launch("compare", f"{base}/work", str(other), f"--output={tmp_path}/compare.json", "--split=val")
    page = page_of(tmp_path / "page.html")
    compared = json.loads((tmp_path / "compare.json").read_text())
    assert page.findings["compared"] == {other.name: compared["differences"]}
    assert [run["report"]["model"] for run in page.findings["runs"]] == [compared[run]["metrics"] for run in "ab"]
    differing = {row["field"]: row["values"] for row in page.findings["config"] if row["differs"]}
    assert differing == {"train.num_epochs": ["3", "1"], "train.learning_rate": ["0.003", "0.001"]}
    text = (tmp_path / "page.html").read_text()
    # The last column of the results: the first run, the other, most_pop.
    shown = re.findall(r"<td>([+-]\d\.\d{4}|–)(?:<small>(\S+) to (\S+)</small>)?</td></tr>", text)
    difference = compared["differences"]["ndcg@20"]
    assert shown[0][0] == "–"
    assert shown[1] == tuple(f"{x:+.4f}" for x in (difference["difference"], *difference["interval"]))
    assert "<b> &#34;$x$" not in text and "a &lt;b&gt; &#34;$x$&#34;" in text


@pytest.mark.parametrize("steps", ["5", "7:7", "a:b"])
def test_profile_steps_that_are_none(raw, tmp_path, steps):
    fails("train", *flags(raw, tmp_path), f"--profile_steps={steps}", says=[f"--profile_steps={steps}: must be A:B"])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([], ["--workdir missing"]),
        (["--workdir=nowhere"], ["nowhere: no config.json there"]),
        (["--workdir={work}", "--protocol=playlist"], ["--protocol=playlist: must be one over users"]),
        (["--workdir={work}", "--split=train"], ["--split=train: must be val or test"]),
        (["--workdir={work}", "--baselines=most_popp"], ["--baselines", "most_pop"]),
    ],
)
def test_bad_input(trained, tmp_path, given, says):
    base, _ = trained
    given = [text.format(work=base / "work") for text in given]
    fails("report", *given, f"--output={tmp_path}/page.html", says=says)
    assert not (tmp_path / "page.html").exists()
