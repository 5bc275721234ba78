from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qreg_yolo.config import detection
from qreg_yolo.config.detection import HeadConfig, RunConfig, RunOptions
from qreg_yolo.io import strict_yaml
from qreg_yolo.io.strict_yaml import ConfigError
from qreg_yolo.quant.spec import QuantSpec


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize(
    "given_config",
    [
        RunConfig(),
        RunConfig(
            run=RunOptions(
                model="a b.yaml", data="on", weights="007", activation="relu", seed=3, threads=1, online=True
            ),
            quant=QuantSpec(
                method="dorefa",
                weight_bits=2,
                act_bits=32,
                first_last_bits="same",
                rescale=True,
                clip_decay=1e-5,
                exclude=("model.24.*", "1e-4"),
                overrides={"model.1.*": {"bits": 8, "per_channel": True}},
            ),
            head=HeadConfig(kind="anchor", box=0.02, obj=1, autoanchor=True),
            train={"lr0": 1e-05, "epochs": 3, "name": "1e-4", "project": "12:30", "device": None, "scale": [0.5, 2.0]},
        ),
    ],
)
def test_what_is_dumped_is_loaded_back_equal(tmp_path: Path, given_config: RunConfig) -> None:
    assert detection.load(write(tmp_path, detection.dump(given_config))) == given_config


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_plain_values_survive_yaml(value: Any) -> None:
    back = strict_yaml.loads(strict_yaml.dumps(value), "test")
    assert back == value
    assert repr(back) == repr(value)  # 1, 1.0 and True are equal but not the same


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-1.5E+3", -1500.0),
        (".5", 0.5),
        ("-1", -1),
        ("007", "007"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2026-01-31", "2026-01-31"),
        ("1_000", "1_000"),
        ("", None),
        ("[640, 480]", [640, 480]),
    ],
)
def test_scalars_mean_what_they_look_like(text: str, value: Any) -> None:
    back = strict_yaml.loads(text, "test")
    assert (type(back), back) == (type(value), value)


# ---------------------------------------------------------------------------------------------- strictness


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("trian: {epochs: 1}", ["'trian'", "Did you mean 'train'"]),
        ("epochs: 1", ["'epochs'", "section 'train'"]),
        ("run: {modle: x.yaml}", ["'modle'", "Did you mean 'model'"]),
        ("run: {epochs: 1}", ["'epochs'", "section 'train'"]),
        ("quant: {per_chanel: true}", ["'per_chanel'", "Did you mean 'per_channel'"]),
        ("quant: {method: lsqq}", ["lsqq", "Did you mean 'lsq'"]),
        ("quant: {bits: 9}", ["bits=9"]),
        ("quant: {bits: 3.5}", ["bits=3.5"]),
        ("head: {kind: anchor_fre}", ["anchor_fre", "Did you mean 'anchor_free'"]),
        ("head: {ojb: 1}", ["'ojb'", "Did you mean 'obj'"]),
        ("head: {box: -0.1}", ["box=-0.1", "at least 0"]),
        ("head: {cls_pw: 0}", ["cls_pw=0", "above 0"]),
        ("head: {anchor_t: 1}", ["anchor_t=1", "above 1"]),
        ("head: {obj: big}", ["obj='big'", "a number"]),
        ("head: {box: true}", ["box=True", "a number"]),
        ("head: {autoanchor: 1, kind: anchor}", ["autoanchor=1", "true or false"]),
        ("head: {autoanchor: true}", ["--head anchor"]),
        ("head: {kind: anchor}\ntrain: {box: 7.5}", ["box=7.5", "section 'head'"]),
        ("train: {epcohs: 1}", ["'epcohs'", "Did you mean 'epochs'"]),
        ("train: {bits: 4}", ["'bits'", "section 'quant'"]),
        ("train: {epochs: ten}", ["epochs='ten'", "a whole number"]),
        ("train: {epochs: true}", ["epochs=True", "a whole number"]),
        ("train: {epochs: 1.5}", ["epochs=1.5", "a whole number"]),
        ("train: {lr0: fast}", ["lr0='fast'", "a number"]),
        ("train: {lr0: .inf}", ["lr0=inf", "finite"]),
        ("train: {lr0: }", ["lr0=None", "a number"]),
        ("train: {val: 1}", ["val=1", "true or false"]),
        ("train: {device: {a: 1}}", ["device", "mapping"]),
        ("run: {seed: -1}", ["seed=-1", "at least 0"]),
        ("run: {seed: 1.0}", ["seed=1.0"]),
        ("run: {threads: 0}", ["threads=0", "at least 1"]),
        ("run: {data: 7}", ["data=7"]),
        ("run: {data: ''}", ["data=''"]),
        ("run: {activation: gelu}", ["gelu", "silu, relu"]),
        ("run: {online: 1}", ["online=1"]),
        ("run: [1]", ["'run'", "mapping"]),
        ("- 1", ["sections"]),
        ("7: {a: 1}", ["'7'"]),
        ("run: {seed: 1}\nrun: {seed: 2}", ["'run' is given twice", "line 2"]),
        ("train:\n  epochs: 1\n  epochs: 1", ["'epochs' is given twice", "line 3"]),
        ("run: {seed: [}", ["line 1"]),
        ("run: a: b", ["line 1"]),
        ("? [a]\n: 1", ["line 1"]),
        ("run: {seed: !!python/name:os.getcwd }", ["python/name"]),
        ("run: \x00", ["not YAML"]),
    ],
)
def test_a_fault_in_a_recipe_names_the_file_the_value_and_the_nearest(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    path = write(tmp_path, text)
    for read in (detection.load, lambda path: detection.resolve(path, {}, {})):
        with pytest.raises(ConfigError) as error:
            read(path)
        assert all(part in str(error.value) for part in [str(path), *parts]), str(error.value)


def test_unreadable_recipes(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"# \xe4")
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "latin.yaml"):
        with pytest.raises(ConfigError, match="cannot be read"):
            detection.load(path)


@pytest.mark.parametrize("text", ["", "# nothing", "run:\ntrain: {}\n"])
def test_an_empty_recipe_is_the_defaults(tmp_path: Path, text: str) -> None:
    assert detection.load(write(tmp_path, text)) == RunConfig()


@pytest.mark.parametrize(("key", "remedy"), [
    ("resume", "--resume"), ("pretrained", "--weights"), ("quantize", "--bits"), ("int8", "--bits"), ("half", "--bits"),
    ("cfg", "--hyp"), ("mode", "subcommand"), ("task", "detection"),
])  # fmt: skip
def test_keys_of_ours_say_what_to_use(tmp_path: Path, key: str, remedy: str) -> None:
    for call in (
        lambda: detection.resolve(None, {}, {key: 1}),
        lambda: detection.load(write(tmp_path, f"train: {{{key}: 1}}")),
        lambda: RunConfig(train={key: 1}),
    ):
        with pytest.raises(ConfigError, match=remedy) as error:
            call()
        assert f"'{key}'" in str(error.value)


@pytest.mark.parametrize("key", ["model", "data", "seed"])
def test_a_recipe_sets_the_aliases_in_section_run_only(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="section 'run'"):
        detection.load(write(tmp_path, f"train: {{{key}: 1}}"))


# ---------------------------------------------------------------------------------------------- the command line


def test_defaults_then_recipe_then_command_line(tmp_path: Path) -> None:
    path = write(
        tmp_path, "run: {seed: 1, threads: 2}\nquant: {method: dorefa, bits: 2}\ntrain: {epochs: 5, imgsz: 320}"
    )
    resolved = detection.resolve(path, {"seed": 7, "method": "lsq", "weights": None}, {"epochs": 9})
    assert resolved.run == RunOptions(seed=7, threads=2)
    assert resolved.quant == QuantSpec(method="lsq", weight_bits=2, act_bits=2)
    assert resolved.train == {"epochs": 9, "imgsz": 320}
    assert detection.resolve(None, {}, {}) == RunConfig()


def test_an_option_that_is_none_was_not_given(tmp_path: Path) -> None:
    path = write(tmp_path, "run: {weights: a.pt}\nquant: {weight_bits: 2, act_bits: 8, first_last_bits: same}")
    given_none = detection.resolve(
        path, {"weights": None, "bits": None, "first_last_bits": None, "seed": None}, {"seed": 1}
    )
    assert given_none == detection.resolve(path, {}, {"seed": 1})
    assert given_none.run.weights == "a.pt"


@pytest.mark.parametrize(
    ("recipe", "options", "widths"),
    [
        ("weight_bits: 2, act_bits: 8", {"bits": 4}, (4, 4)),
        ("bits: 2", {"weight_bits": 8}, (8, 2)),
        ("bits: 2", {"act_bits": 8}, (2, 8)),
        ("bits: 2, weight_only: true", {"bits": 4}, (4, 32)),
        ("bits: 2, weight_only: true", {"act_bits": 4}, (2, 4)),
        ("act_bits: 8", {"weight_only": True}, (4, 32)),
        ("act_bits: 8", {"weight_only": False}, (4, 8)),
        ("bits: 2", {"bits": 3, "weight_only": True}, (3, 32)),
        ("bits: 2", {"bits": 32}, (32, 32)),
        ("bits: 2", {"bits": 4, "act_bits": 8}, (4, 8)),
    ],
)
def test_widths_of_the_command_line_win(
    tmp_path: Path, recipe: str, options: dict[str, Any], widths: tuple[int, int]
) -> None:
    quant = detection.resolve(write(tmp_path, f"quant: {{{recipe}}}"), options, {}).quant
    assert (quant.weight_bits, quant.act_bits) == widths


@pytest.mark.parametrize(
    ("key", "one", "other"), [("seed", 1, 2), ("data", "voc", "x.yaml"), ("model", "a.yaml", "b.yaml")]
)
def test_an_option_and_a_key_value_that_disagree_are_an_error(key: str, one: Any, other: Any) -> None:
    with pytest.raises(ConfigError, match=rf"--{key} {one} and {key}={other} disagree"):
        detection.resolve(None, {key: one}, {key: other})
    for options, overrides in (({key: one}, {key: one}), ({}, {key: one}), ({key: one}, {})):
        assert getattr(detection.resolve(None, options, overrides).run, key) == one
        assert detection.resolve(None, options, overrides).train == {}


def test_an_alias_beats_the_recipe(tmp_path: Path) -> None:
    assert detection.resolve(write(tmp_path, "run: {seed: 1}"), {}, {"seed": 2}).run.seed == 2


@pytest.mark.parametrize(
    ("options", "overrides", "parts"),
    [
        ({}, {"epcohs": 1}, ["'epcohs'", "Did you mean 'epochs'"]),
        ({}, {"bits": 4}, ["'bits' is an option", "--bits"]),
        ({}, {"weight_only": True}, ["--weight-only"]),
        ({"metod": "lsq"}, {}, ["'metod'", "Did you mean 'method'"]),
        ({"method": "pcat"}, {}, ["pcat", "Did you mean 'pact'"]),
        ({"bits": 0}, {}, ["bits=0"]),
        ({"weight_only": True, "act_bits": 4}, {}, ["act_bits=4"]),
        ({"seed": "x"}, {}, ["seed='x'"]),
        ({}, {"seed": True}, ["seed=True"]),
        ({}, {"epochs": "x"}, ["command line: epochs='x'"]),
    ],
)
def test_faults_of_the_command_line(options: dict[str, Any], overrides: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        detection.resolve(None, options, overrides)
    assert all(part in str(error.value) for part in parts), str(error.value)


def test_a_configuration_does_not_share_the_callers_mapping() -> None:
    train = {"epochs": 1}
    made = RunConfig(train=train)
    train["epochs"] = 2
    assert made.train == {"epochs": 1}
