"""The command line: help, errors in one sentence, and estimates from files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from flashmi_reg import errors, table_commands
from flashmi_reg.cli import main


@pytest.fixture
def samples() -> np.ndarray:
    """Three columns, the last two with I(x; y) = 0.51 nats between them."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((1000, 3))
    values[:, 2] = 0.8 * values[:, 1] + 0.6 * values[:, 2]
    return values


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


COMMANDS = [[], ["demo"], ["info"], ["estimate"], ["test"], ["matrix"]]


@pytest.mark.parametrize("arguments", COMMANDS, ids=str)
def test_help_shows_an_example(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    example = "  flashmi" if arguments != ["info"] else "usage: flashmi"
    assert example in shown


def test_pretrain_has_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "--help"])
    assert stop.value.code == 0
    assert "--" in capsys.readouterr().out


def test_command_is_required() -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2


def test_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flashmi_reg.cli", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "estimate" in done.stdout


def test_info_names_weights_and_versions(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "info")
    assert code == 0
    assert "torch" in out
    assert "weights base" in out


def test_estimates_agree_between_file_formats(
    samples: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", samples)
    np.savez(tmp_path / "a.npz", left=samples[:, 1], right=samples[:, 2:])
    named, bare = tmp_path / "named.csv", tmp_path / "bare.csv"
    np.savetxt(named, samples, delimiter=",", header="noise,left,right", comments="")
    np.savetxt(bare, samples, delimiter=",")
    values = []
    for path, x, y in [
        (tmp_path / "a.npy", "1", "2:"),
        (tmp_path / "a.npz", "left", "right"),
        (named, "left", "right"),
        (bare, "1:2", "2"),
    ]:
        code, out, err = run(capsys, "estimate", str(path), "--x", x, "--y", y, "--json")
        assert code == 0, err
        found = json.loads(out)
        assert (found["n"], found["dx"], found["dy"]) == (1000, 1, 1)
        values.append(found["nats"])
    assert values[0] == pytest.approx(-0.5 * np.log(1 - 0.64), abs=0.12)
    assert np.ptp(values) < 0.05  # the formats keep all digits that ranks need


def test_plain_output_gives_the_unit(
    samples: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", samples)
    code, out, _ = run(capsys, "estimate", str(tmp_path / "a.npy"), "--x", "0,1", "--y", "2")
    assert code == 0
    assert "nats" in out
    assert "n = 1000" in out


@pytest.mark.parametrize(
    ("name", "x", "y", "says"),
    [
        ("missing.npy", "0", "1", "does not exist"),
        ("a.txt", "0", "1", "expected .csv, .npy, .npz or .parquet"),
        ("a.npy", "0", "7", "3 columns"),
        ("a.npy", "0", "weight", "'weight'"),
        ("a.npy", "", "1", "3 columns"),
        ("flat.npy", "0", "1", "shape (5,)"),
        ("a.npz", "left", "right", "'right'"),
        ("words.csv", "0", "1", "not a number"),
        ("ragged.csv", "0", "1", "equally many"),
        ("empty.csv", "0", "1", "equally many"),
        ("gap.csv", "0", "1", "an empty cell in row 1"),
        ("twice.csv", "0", "1", "two columns called 'a'"),
        ("broken.npz", "x", "y", "cannot be read as .npz"),
        ("pickled.npy", "0", "1", "cannot be read as .npy"),
        ("uneven.npz", "a,b", "c", "must pair up"),
    ],
)
def test_errors_are_one_sentence(
    name: str,
    x: str,
    y: str,
    says: str,
    samples: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.save(tmp_path / "a.npy", samples)
    np.save(tmp_path / "flat.npy", samples[:5, 0])
    np.savez(tmp_path / "a.npz", left=samples)
    (tmp_path / "a.txt").write_text("1 2\n")
    (tmp_path / "words.csv").write_text("a,b\n1,2\nred,3\n")
    (tmp_path / "ragged.csv").write_text("1,2\n1\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "gap.csv").write_text("a,b\n1,2\n,3\n")
    (tmp_path / "twice.csv").write_text("a,a\n1,2\n")
    (tmp_path / "broken.npz").write_bytes(b"PK no archive")
    np.save(tmp_path / "pickled.npy", np.array([[{}]]), allow_pickle=True)
    np.savez(tmp_path / "uneven.npz", a=samples[:5], b=samples[:6], c=samples)
    code, out, err = run(capsys, "estimate", str(tmp_path / name), "--x", x, "--y", y)
    assert code == 2
    assert out == ""
    assert says in err
    assert err.startswith("flashmi: ")
    assert len(err.strip().splitlines()) == 1


def test_errors_of_the_estimator_are_caught(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.ones((300, 2))
    values[0, 0] = np.nan
    np.save(tmp_path / "a.npy", values)
    code, _, err = run(capsys, "estimate", str(tmp_path / "a.npy"), "--x", "0", "--y", "1")
    assert code == 2
    assert len(err.strip().splitlines()) == 1


def test_every_error_is_a_flashmi_error() -> None:
    kinds = (errors.InputError, errors.CheckpointError, errors.MissingExtraError)
    assert all(issubclass(kind, errors.FlashMIError) for kind in kinds)


def test_columns_called_x_and_y_need_no_options(
    samples: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "named.npz", y=samples[:, 2], x=samples[:, :2], other=samples)
    np.save(tmp_path / "two.npy", samples[:, 1:])
    np.save(tmp_path / "three.npy", samples)
    for name, dx in (("named.npz", 2), ("two.npy", 1)):
        code, out, err = run(capsys, "estimate", str(tmp_path / name), "--json")
        assert code == 0, err
        found = json.loads(out)
        assert (found["measure"], found["dx"], found["dy"]) == ("mi", dx, 1)
        assert found["nats"] == pytest.approx(0.51, abs=0.12)
    code, _, err = run(capsys, "estimate", str(tmp_path / "three.npy"))
    assert code == 2
    assert "`--x` and `--y` must name columns" in err


def test_classes_may_be_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 400)
    lines = [f"{2 * k + rng.standard_normal()},{('cat', 'dog')[k]},{k}" for k in kind]
    path = tmp_path / "a.csv"
    path.write_text("size,animal,code\n" + "\n".join(lines))
    values = []
    for y in ("animal", "code"):
        arguments = ("estimate", str(path), "--x", "size", "--y", y, "--labels", "--json")
        code, out, err = run(capsys, *arguments)
        assert code == 0, err
        assert json.loads(out)["classes"] == 2
        values.append(json.loads(out)["nats"])
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    assert 0.2 < values[0] < np.log(2)
    code, _, err = run(capsys, "estimate", str(path), "--x", "size", "--y", "animal")
    assert code == 2
    assert "add --labels" in err
    code, _, err = run(capsys, "estimate", str(path), "--x", "0", "--y", "1,2", "--labels")
    assert code == 2
    assert "one column" in err


def test_wide_columns_are_sliced_and_named_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    wide = rng.standard_normal((60, 24))
    np.savez(tmp_path / "a.npz", x=wide, y=wide[:, :2] + rng.standard_normal((60, 2)))
    code, out, err = run(capsys, "estimate", str(tmp_path / "a.npz"))
    assert code == 0, err
    assert out.startswith("sliced I(x; y) = ")
    assert "32 slices of 5" in out
    assert "another quantity" in err


def test_conditions(
    samples: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given what y was made of, little is left."""
    noisy = samples[:, 1:] + 0.3 * np.random.default_rng(1).standard_normal((1000, 2))
    np.savez(tmp_path / "a.npz", x=noisy[:, 0], y=noisy[:, 1], z=samples[:, 1])
    path = str(tmp_path / "a.npz")
    code, out, err = run(capsys, "estimate", path, "--x", "x", "--y", "y", "--given", "z")
    assert code == 0, err
    assert out.startswith("I(x; y | z) = ")
    assert abs(float(out.split()[5])) < 0.15
    code, _, err = run(capsys, "estimate", path, "--x", "x", "--y", "y", "--given-labels")
    assert code == 2
    assert "add `--given COLUMN`" in err


def test_conditions_and_sides_of_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A coin and its repetition by a liar, who is known by the condition."""
    rng = np.random.default_rng(0)
    coin, liar = rng.integers(0, 2, (2, 600))
    told, mood = coin ^ liar, liar + 0.2 * rng.standard_normal(600)
    words = np.array(["heads", "tails"])
    rows = [
        f"{words[c]},{words[t]},{('honest', 'liar')[who]},{m}"
        for c, t, who, m in zip(coin, told, liar, mood, strict=True)
    ]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["coin,told,who,mood", *rows]))
    sides = ("--x", "coin", "--y", "told", "--labels", "--x-labels", "--json")
    found = []
    for given in ((), ("--given", "who", "--given-labels"), ("--given", "mood")):
        code, out, err = run(capsys, "estimate", str(path), *sides, *given)
        assert code == 0, err
        found.append(json.loads(out)["nats"])
    assert found[0] == pytest.approx(0, abs=0.01)
    assert found[1:] == pytest.approx([np.log(2)] * 2, abs=0.05)
    code, _, err = run(capsys, "estimate", str(path), *sides, "--given", "who")
    assert code == 2
    assert "who" in err


def test_two_columns_of_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.csv"
    rows = [f"{('a', 'b')[i % 2]},{('u', 'v', 'w')[i % 3]},{i % 2}" for i in range(300)]
    path.write_text("\n".join(["city,country,code", *rows]))
    both = ("--labels", "--x-labels")
    code, out, err = run(
        capsys, "estimate", str(path), "--x", "city", "--y", "code", *both, "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["nats"] == pytest.approx(np.log(2), abs=0.01)
    assert found["p_value"] < 1e-9
    assert (found["dx"], found["dy"], found["classes"]) == (1, 1, [2, 2])
    code, out, err = run(capsys, "estimate", str(path), "--x", "city", "--y", "country", *both)
    assert code == 0, err
    assert "p = 1 if independent" in out
    code, _, err = run(capsys, "estimate", str(path), "--x", "city", "--y", "code")
    assert code == 2
    assert "add --x-labels" in err


def test_either_side_may_hold_the_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = np.random.default_rng(0).standard_normal(100)
    rows = [f"{value},{'large' if value > 0 else 'small'}" for value in size]
    (tmp_path / "a.csv").write_text("\n".join(["size,word", *rows]))
    values = []
    for x, y, option in (("size", "word", "--labels"), ("word", "size", "--x-labels")):
        code, out, err = run(
            capsys, "estimate", str(tmp_path / "a.csv"), "--x", x, "--y", y, option, "--json"
        )
        assert code == 0, err
        values.append(json.loads(out)["nats"])
    assert values[0] == values[1] > 0.5


def test_matrix_of_columns_of_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.csv"
    size = np.random.default_rng(0).standard_normal(100)
    rows = [f"{v},{'+' if v > 0 else '-'},{i % 2}" for i, v in enumerate(size)]
    path.write_text("\n".join(["size,sign,code", *rows]))
    code, out, err = run(capsys, "matrix", str(path), "--labels", "sign,code", "--json")
    assert code == 0, err
    nats = json.loads(out)["nats"]
    assert nats[0][1] > 0.5
    assert abs(nats[1][2]) < 0.1
    code, _, err = run(capsys, "matrix", str(path), "--columns", "size", "--labels", "sign")
    assert code == 2
    assert "none of `--columns`" in err


def test_independence_is_tested(
    samples: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", samples[:60])
    arguments = ("test", str(tmp_path / "a.npy"), "--permutations", "19")
    code, out, err = run(capsys, *arguments, "--x", "1", "--y", "2", "--json")
    assert code == 0, err
    assert json.loads(out)["p_value"] == pytest.approx(0.05)
    code, out, _ = run(capsys, *arguments, "--x", "0", "--y", "2")
    assert code == 0
    assert "p = " in out
    assert "of 19 permutations" in out
    code, _, err = run(capsys, "test", arguments[1], "--x", "0", "--y", "2", "--permutations", "0")
    assert code == 2
    assert "permutations" in err


def test_all_pairs(samples: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, heatmap, table = (tmp_path / name for name in ("a.csv", "heat.png", "matrix.csv"))
    np.savetxt(path, samples, delimiter=",", header="noise,left,right", comments="")
    code, out, err = run(
        capsys, "matrix", str(path), "--plot", str(heatmap), "--output", str(table), "--top", "2"
    )
    assert code == 0, err
    assert "\r" not in err  # no progress bar off a terminal
    lines = out.splitlines()
    assert "largest 2 of 3 pairs" in lines[0]
    assert lines[1].split()[1:] == ["left", "right"]
    assert float(lines[1].split()[0]) == pytest.approx(0.51, abs=0.12)
    assert heatmap.read_bytes().startswith(b"\x89PNG")
    rows = [line.split(",") for line in table.read_text().splitlines()]
    assert rows[0] == ["", "noise", "left", "right"]
    assert rows[1][1] == ""
    assert rows[2][3] == rows[3][2]
    code, out, _ = run(capsys, "matrix", str(path), "--columns", "left,right", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["columns"] == ["left", "right"]
    assert found["nats"][0][0] is None
    assert found["nats"][0][1] == pytest.approx(float(rows[2][3]), abs=1e-5)


def test_heatmap_of_negative_estimates(tmp_path: Path) -> None:
    figure = table_commands._empty_figure(tmp_path / "heat.svg")
    table_commands._draw(figure, torch.tensor([[torch.nan, -0.01], [-0.01, torch.nan]]), ["a", "b"])
    figure.savefig(tmp_path / "heat.svg")
    assert "<svg" in (tmp_path / "heat.svg").read_text()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--plot", "missing/heat.png"], "does not exist"),
        (["--plot", "heat.words"], "expected one of"),
        (["--columns", "0"], "two variables"),
        (["--columns", "weight"], "'weight'"),
    ],
    ids=str,
)
def test_errors_of_the_matrix(
    options: list[str],
    says: str,
    samples: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    np.save(tmp_path / "a.npy", samples)
    code, out, err = run(capsys, "matrix", str(tmp_path / "a.npy"), *options)
    assert code == 2
    assert out == ""
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_parquet(samples: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    names = ("noise", "left", "right")
    table = pyarrow.table(dict(zip(names, samples.T, strict=True)))
    parquet.write_table(table, tmp_path / "a.parquet")
    np.save(tmp_path / "a.npy", samples)
    values = []
    for name, x, y in (("a.parquet", "left", "right"), ("a.npy", "1", "2")):
        code, out, err = run(capsys, "estimate", str(tmp_path / name), "--x", x, "--y", y, "--json")
        assert code == 0, err
        values.append(json.loads(out)["nats"])
    assert values[0] == values[1]


@pytest.mark.parametrize("command", ["estimate", "matrix"])
def test_a_missing_extra_is_named(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for module in ("pyarrow", "matplotlib", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    plot = ["--plot", str(tmp_path / "heat.png")] if command == "matrix" else []
    code, _, err = run(capsys, command, str(tmp_path / "a.parquet"), *plot)
    assert code == 2
    assert "flashmi_reg[tables]" in err
