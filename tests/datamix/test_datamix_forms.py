"""Schedules and their foreign forms. Every written file is read by a parser that is not ours (yaml, csv, json, ast, the
peer's rule, or datasets itself)."""

import csv
import io
import json
import math
import sys
import types
from pathlib import Path

import pytest
import yaml
from datamix_exports import LENGTHS, staged

from datamix import forms, schedule
from datamix.corpus import Corpus, Domain, Listing, Part
from tenfold_shared import BadInput

WEIGHTS = {"web": 0.5, "math": 0.3, "code": 0.2}


def static(path: Path, weights=WEIGHTS) -> str:
    path.write_bytes(schedule.static_file(weights, "proportional"))
    return str(path)


def exported(tmp: Path, to: str, source: str, **options) -> str:
    out = tmp / f"out-{to}"
    assert forms.export(source, to, str(out), overwrite=True, **options) == 0
    return out.read_text()


# ---------------------------------------------------------------- schedule.jsonl


def test_a_line_has_the_fields_of_the_contract():
    line = schedule.line(0, 131072, {"a": 0.25, "b": 0.75}, {"a": 1.5, "b": 2.0}, 0.5)
    told = json.loads(schedule.write_line(line))
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert told.pop("entropy") == pytest.approx(entropy)
    assert told == {"schema": "mixture-schedule/1", "step": 0, "tokens_seen": 131072, "weights": {"a": 0.25, "b": 0.75},
                    "feedback": {"a": 1.5, "b": 2.0}, "q": 0.5}  # fmt: skip
    assert json.loads(schedule.write_line(schedule.line(0, 1, {"a": 1.0}, q=math.nan)))["q"] is None


def test_a_line_names_what_was_not_measured(tmp_path):
    lines = [schedule.line(0, 9, {"a": 1.0, "b": 0.0}, {"a": 2.0, "b": 3.0}, None, missing) for missing in ((), ("b",))]
    lines[1].step, lines[1].tokens_seen = 1, 18
    path = tmp_path / "s.jsonl"
    path.write_bytes(schedule.schedule_file(lines))
    raw = [json.loads(line) for line in path.read_text().splitlines()]
    assert "missing" not in raw[0] and raw[1]["missing"] == ["b"]
    assert [one.missing for one in schedule.read(str(path))] == [[], ["b"]]
    path.write_text(json.dumps({**raw[0], "missing": ["c"]}) + "\n")
    with pytest.raises(BadInput, match=r"s\.jsonl:1: missing: c: not in weights"):
        schedule.read(str(path))


def test_average_and_stages(tmp_path):
    lines = schedule.read(staged(tmp_path / "s.jsonl"))
    assert schedule.average(lines) == pytest.approx({"web": (0.9 * 2 + 0.25 * 2) / 4, "math": (0.1 * 2 + 0.75 * 2) / 4})
    found = schedule.stages(lines)
    assert [(s.first_step, s.steps, s.start, s.tokens) for s in found] == [(0, 2, 0, 2000), (2, 1, 2000, 2000)]
    assert [s.tokens for s in schedule.stages(lines, merge=False)] == LENGTHS


def test_a_static_mixture_is_a_schedule_of_one_stage_of_unknown_length(tmp_path):
    (line,) = schedule.load_any(static(tmp_path / "mix.json"))
    assert (line.step, line.tokens_seen, line.weights) == (0, 0, WEIGHTS)
    assert schedule.load_any(staged(tmp_path / "s.jsonl")) == schedule.read(str(tmp_path / "s.jsonl"))


def test_six_decimals_are_not_worth_a_word(tmp_path, capsys):
    thirds = {f"d{i}": round(1 / 7, 6) for i in range(7)}
    (line,) = schedule.load_any(static(tmp_path / "mix.json", thirds))
    assert sum(line.weights.values()) == pytest.approx(1, abs=1e-15)
    assert capsys.readouterr().err == ""


GOOD = {"step": 0, "tokens_seen": 5, "weights": {"a": 0.5, "b": 0.5}}


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "s.jsonl: no lines"),
        (["{"], "s.jsonl:1: expected one JSON object"),
        ([{"step": 0, "weights": {"a": 1.0}}], "s.jsonl:1: tokens_seen: required field is missing"),
        ([{**GOOD, "weights": {"a": "x"}}], r"s.jsonl:1: weights\[...\]: expected float, got str"),
        ([{**GOOD, "weights": {"a": 0.5, "b": 0.4}}], "s.jsonl:1: weights: weights sum to 0.9"),
        ([{**GOOD, "weights": {"a": 1.5, "b": -0.5}}], "s.jsonl:1: weights: expected weights of 0 or more"),
        ([{**GOOD, "weights": {}}], "s.jsonl:1: weights: expected a weight for each domain"),
        ([{**GOOD, "schema": "mixture-schedule/2"}], "s.jsonl:1: schema"),
        ([{**GOOD, "step": 1}], "s.jsonl:1: step: 1; expected 0"),
        ([{**GOOD, "tokens_seen": 0}], "s.jsonl:1: tokens_seen: 0; expected more than the 0"),
        ([GOOD, {**GOOD, "step": 1}], "s.jsonl:2: tokens_seen: 5; expected more"),
        ([GOOD, {**GOOD, "step": 2, "tokens_seen": 6}], "s.jsonl:2: step: 2; expected 1"),
        ([GOOD, {"step": 1, "tokens_seen": 9, "weights": {"a": 0.5, "c": 0.5}}], "s.jsonl:2: weights: b: not in every"),
    ],
)
def test_what_is_no_schedule_is_named_by_line_and_field(tmp_path, lines, told):
    path = tmp_path / "s.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    with pytest.raises(BadInput, match=told):
        schedule.read(str(path))


def test_what_is_no_static_mixture(tmp_path):
    path = tmp_path / "mix.json"
    for text, told in [
        ("", "empty"),
        ('{"schema": "mixture/2", "weights": {"a": 1}}', "schema: expected .*, got 'mixture/2'"),
        ('{"schema": "mixture/1"}', "weights: Expected `object`, got `null`"),
        ('{"schema": "mixture/1", "weights": {"a": 0.5}}', "weights: weights sum to 0.5"),
    ]:
        path.write_text(text)
        with pytest.raises(BadInput, match=rf"mix.json: {told}"):
            schedule.load_any(str(path))


# ---------------------------------------------------------------- each form, by a parser that is not ours


def test_regmix(tmp_path):
    told = yaml.safe_load(exported(tmp_path, "regmix", static(tmp_path / "m.json"), paths="train_the_pile_{domain}"))
    assert told["train"] == {f"train_the_pile_{name}": w for name, w in WEIGHTS.items()}
    assert told["valid"] == {f"valid_the_pile_{name}": 1.0 for name in WEIGHTS}
    assert isinstance(told["model_name"], str)
    plain = yaml.safe_load(exported(tmp_path, "regmix", static(tmp_path / "m.json")))
    assert list(plain["train"]) == [f"train_{name}" for name in WEIGHTS]  # its scripts pass over other names


def test_regmix_refuses_names_that_its_file_search_would_mix_up(tmp_path):
    with pytest.raises(BadInput, match="wiki, train_wiki-en"):
        forms.export(static(tmp_path / "m.json", {"wiki": 0.5, "wiki-en": 0.5}), "regmix", str(tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def test_doremi(tmp_path):
    told = json.loads(exported(tmp_path, "doremi", static(tmp_path / "m.json")))
    assert told == {"train_domain_weights": WEIGHTS, "eval_domain_weights": WEIGHTS}


def test_olmix(tmp_path):
    (row,) = csv.DictReader(io.StringIO(exported(tmp_path, "olmix", static(tmp_path / "m.json"))))
    assert list(row) == ["run", "name", "index", *WEIGHTS]
    assert {name: float(row[name]) for name in WEIGHTS} == WEIGHTS
    assert row["index"] == "0"


def blend_of(text: str) -> tuple[list[str], list[float]]:
    """Megatron's reading of --data-args-path: split at white space, then pairs of weight and prefix."""
    words = text.split()
    return words[1::2], [float(weight) for weight in words[::2]]


def test_megatron(tmp_path):
    text = exported(
        tmp_path, "megatron", static(tmp_path / "m.json", {**WEIGHTS, "dead": 0.0}), paths="/d/{domain}_text"
    )
    assert blend_of(text) == (["/d/web_text", "/d/math_text", "/d/code_text"], [0.5, 0.3, 0.2])
    assert text.count("\n") == 1


def test_megatron_refuses_what_its_list_would_split(tmp_path):
    with pytest.raises(BadInput, match="white space"):
        forms.export(static(tmp_path / "m.json", {"a b": 0.5, "c": 0.5}), "megatron", None)


def test_a_schedule_for_megatron_is_a_folder_of_blends(tmp_path):
    out = tmp_path / "blends"
    assert forms.export(staged(tmp_path / "s.jsonl"), "megatron", str(out), paths="/d/{domain}") == 0
    index = json.loads((out / "stages.json").read_text())
    assert [(s["file"], s["first_step"], s["start"], s["tokens"]) for s in index["stages"]] == [
        ("stage-0001.txt", 0, 0, 2000), ("stage-0002.txt", 2, 2000, 2000)]  # fmt: skip
    assert blend_of((out / "stage-0002.txt").read_text()) == (["/d/web", "/d/math"], [0.25, 0.75])
    assert json.loads((out / "manifest.json").read_text())["counts"] == {"stages": 2, "domains": 2}
    before = (out / "manifest.json").stat().st_mtime_ns
    assert forms.export(str(tmp_path / "s.jsonl"), "megatron", str(out), paths="/d/{domain}") == 0
    assert (out / "manifest.json").stat().st_mtime_ns == before  # finished: nothing to do
    with pytest.raises(BadInput, match="made with --paths"):
        forms.export(str(tmp_path / "s.jsonl"), "megatron", str(out), paths="/e/{domain}")


def test_hf_is_what_interleave_datasets_takes(tmp_path):
    import datasets

    mix = json.loads(exported(tmp_path, "hf", static(tmp_path / "m.json", {**WEIGHTS, "dead": 0.0})))
    rows = {name: datasets.Dataset.from_dict({"from": [name] * 400}) for name in [*WEIGHTS, "dead"]}
    data = datasets.interleave_datasets(
        [rows[name] for name in mix["datasets"]], probabilities=mix["probabilities"], seed=mix["seed"],
        stopping_strategy=mix["stopping_strategy"],
    )  # fmt: skip
    drawn = data["from"]
    for name, weight in WEIGHTS.items():
        sigma = math.sqrt(weight * (1 - weight) / len(drawn))
        assert abs(list(drawn).count(name) / len(drawn) - weight) < 4 * sigma
    assert "tokens" not in mix


def test_hf_holds_stages(tmp_path):
    told = json.loads(exported(tmp_path, "hf", staged(tmp_path / "s.jsonl")))
    assert [(s["datasets"], s["probabilities"], s["tokens"]) for s in told["stages"]] == [
        (["web", "math"], [0.9, 0.1], 2000), (["web", "math"], [0.25, 0.75], 2000)]  # fmt: skip


def test_nanotron(tmp_path):
    told = yaml.safe_load(
        exported(tmp_path, "nanotron", staged(tmp_path / "s.jsonl"), paths="/t/{domain}", step_tokens=100)
    )
    first, second = told["data_stages"]
    # What its Config checks: a stage that begins with step 1, names and starts of their own.
    assert (first["start_training_step"], second["start_training_step"]) == (1, 21)
    assert first["name"] != second["name"]
    assert first["data"]["dataset"] == {"dataset_folder": ["/t/web", "/t/math"], "dataset_weights": [0.9, 0.1]}
    assert second["data"]["dataset"]["dataset_weights"] == [0.25, 0.75]
    assert told["tokens"] == {"train_steps": 40}
    with pytest.raises(BadInput, match="--step-tokens: nanotron counts"):
        forms.export(str(tmp_path / "s.jsonl"), "nanotron", None)
    with pytest.raises(BadInput, match="less than a training step"):
        forms.export(str(tmp_path / "s.jsonl"), "nanotron", None, step_tokens=10**6)
    (only,) = yaml.safe_load(exported(tmp_path, "nanotron", static(tmp_path / "m.json")))["data_stages"]
    assert only["start_training_step"] == 1


def corpus_of(**tokens: int) -> Corpus:
    part = {name: Part(1, n, n, "0") for name, n in tokens.items()}
    roles = ["source"] * (len(tokens) - 1) + ["target"]
    listed = [Domain(name, role, part[name], part[name]) for name, role in zip(tokens, roles, strict=True)]
    return Corpus(Path("nowhere"), Listing(listed))


def test_olmo_core(tmp_path):
    told = yaml.safe_load(exported(tmp_path, "olmo-core", static(tmp_path / "m.json"), paths="/d/{domain}/*.npy"))
    assert [s["source_name"] for s in told["sources"]] == list(WEIGHTS)
    assert sum(s["target_ratio"] for s in told["sources"]) == pytest.approx(1, abs=1e-8)
    assert told["sources"][0]["paths"] == ["/d/web/*.npy"]
    out = tmp_path / "stages"
    corpus = corpus_of(web=10_000, math=500)
    assert forms.export(staged(tmp_path / "s.jsonl"), "olmo-core", str(out), corpus=corpus) == 0
    for entry in json.loads((out / "stages.json").read_text())["stages"]:
        for source in yaml.safe_load((out / entry["file"]).read_text())["sources"]:
            size = {"web": 10_000, "math": 500}[source["source_name"]]
            # The rule of its builder: int(requested · ratio) must not exceed int(tokens · repetition).
            assert int(entry["tokens"] * source["target_ratio"]) <= int(size * source["max_repetition_ratio"])
            assert 1 <= source["max_repetition_ratio"] <= max(1, entry["tokens"] * source["target_ratio"] / size + 0.03)


def test_llm_foundry(tmp_path):
    text = exported(tmp_path, "llm-foundry", static(tmp_path / "m.json"), paths="s3://b/{domain}")
    streams = yaml.safe_load(text)["train_loader"]["dataset"]["streams"]
    assert streams == {name: {"remote": f"s3://b/{name}", "proportion": w} for name, w in WEIGHTS.items()}
    text = exported(tmp_path, "llm-foundry", static(tmp_path / "m.json"), paths="mds/{domain}")
    assert yaml.safe_load(text)["train_loader"]["dataset"]["streams"]["web"]["local"] == "mds/web"
    with pytest.raises(BadInput, match="OmegaConf"):
        forms.export(static(tmp_path / "m.json", {"${x}": 1.0}), "llm-foundry", None)


def fake_torchtitan(monkeypatch) -> dict:
    """Classes of the names and fields that torchtitan has, which keep what they are given."""

    class Kept:
        def __init__(self, **given):
            self.__dict__.update(given)

    def config(name):
        return type(name, (), {"Config": type("Config", (Kept,), {})})

    known: dict = {}
    names = (
        "SingleDatasetConfig",
        "ConcatThenSplitPackingConfig",
        "DatasetMixConfig",
        "WeightedDataset",
        "HFDataSource",
    )
    plain = {name: type(name, (Kept,), {}) for name in names}
    data = types.SimpleNamespace(**plain, IndexedJsonlSource=config("IndexedJsonlSource"))
    text = types.SimpleNamespace(
        TextProcessor=config("TextProcessor"), HFDataSource=plain["HFDataSource"], DATASETS=known,
        InterleavedHuggingFaceTextDataLoader=config("InterleavedHuggingFaceTextDataLoader"),
    )  # fmt: skip
    hf = types.SimpleNamespace(text_datasets=text, DatasetConfig=type("DatasetConfig", (Kept,), {}))
    components = types.SimpleNamespace(data=data)
    for name, module in {"": types.SimpleNamespace(), ".components": components, ".hf_datasets": hf, ".hf_datasets.text_datasets": text}.items():  # fmt: skip
        monkeypatch.setitem(sys.modules, f"torchtitan{name}", module)
    return known


def test_torchtitan(tmp_path, monkeypatch):
    known = fake_torchtitan(monkeypatch)
    text = exported(tmp_path, "torchtitan", static(tmp_path / "m.json", {"web": 0.75, "it's": 0.25, "dead": 0.0}))
    module: dict = {}
    exec(compile(text, "mixture.py", "exec"), module)
    mix = module["dataset"]().datasets
    assert [child.weight for child in mix] == [0.75, 0.25]
    assert mix[1].dataset.dataset.source.patterns == ("train/it's-*.jsonl",)
    loader = module["dataloader"]()
    assert [(s.dataset, s.weight, s.infinite) for s in loader.sources] == [("web", 0.75, True), ("it's", 0.25, True)]
    assert known["web"].path == "train/web-*.jsonl"
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "web-0.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    rows = known["web"].loader(str(tmp_path / known["web"].path))
    assert [known["web"].sample_processor(row) for row in rows] == ["one", "two"]


@pytest.mark.parametrize("to", ["regmix", "doremi", "olmix", "torchtitan", "llm-foundry"])
def test_several_stages_need_a_choice_where_the_form_holds_one(tmp_path, to):
    source = staged(tmp_path / "s.jsonl")
    with pytest.raises(BadInput, match=f"2 stages, and {to} holds one mixture; add --average"):
        forms.export(source, to, str(tmp_path / "o"))
    assert not (tmp_path / "o").exists()
    out = tmp_path / "mean"
    assert forms.export(source, to, str(out), average=True) == 0
    (line,) = forms.read(to, str(out))
    assert line.weights == pytest.approx({"web": 0.575, "math": 0.425})
    assert forms.export(source, to, str(tmp_path / "each"), stages=True) == 0
    assert [one.tokens_seen for one in forms.read(to, str(tmp_path / "each"))] == [2000, 4000]


def test_options_that_do_not_fit(tmp_path):
    source = staged(tmp_path / "s.jsonl")
    for to, options, told in [
        ("onnx", {}, "onnx: no such form; there are regmix, doremi"),
        ("hf", {"paths": "data"}, "--paths: 'data': expected a template that holds {domain}"),
        ("hf", {"average": True, "stages": True}, "choose one"),
        ("olmix", {"average": True, "paths": "{domain}\r"}, "carriage return"),
        ("olmix", {"average": True, "paths": "run"}, "expected a template"),
        ("megatron", {}, "-o: 2 stages are a folder"),
        ("hf", {"corpus": corpus_of(web=5, code=5)}, "weights: math: not a domain of nowhere; there are web, code"),
    ]:
        with pytest.raises(BadInput, match=told):
            forms.export(source, to, None, **options)


def test_the_output_has_a_manifest_and_is_not_written_over(tmp_path):
    source, out = static(tmp_path / "m.json"), tmp_path / "mix.yaml"
    forms.export(source, "regmix", str(out))
    manifest = json.loads((tmp_path / "mix.yaml.manifest.json").read_text())
    assert (manifest["verb"], manifest["options"]["to"], len(manifest["inputs"])) == ("export", "regmix", 1)
    with pytest.raises(BadInput, match="was made with --to"):
        forms.export(source, "doremi", str(out))
