"""Table 3 by hand and as LaTeX, and what the paper's own says of its headline numbers."""

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.config import TablesRun
from stages.report import paper_table3, tables

METHODS = {"vanilla": "vanilla", "sft": "sft", "rl": "rl", "grpo": "rl"}
Runs = dict[tuple[str, int], dict[int, float]]


def scores(
    runs: Runs, datasets: tuple[str, ...] = ("text",), models: tuple[str, ...] = ("tiny",), settings: int = 1
) -> pd.DataFrame:
    """accuracy.csv, as far as tables read it: accuracy by epoch, by method and seed."""
    rows = [
        (model, dataset, method, seed, split, epoch, setting, 4, value)
        for model in models
        for dataset in datasets
        for (method, seed), curve in runs.items()
        for epoch, value in curve.items()
        for split in ("validation", "test")
        for setting in ("pass@8", "pass@1")[-settings:]
    ]
    columns = ["model", "dataset", "method", "seed", "split", "epoch", "setting", "problems", "accuracy"]
    return pd.DataFrame(rows, columns=columns)


TWO_SEEDS: Runs = {
    ("vanilla", 0): {0: 0.2},
    ("vanilla", 1): {0: 0.4},
    ("sft", 0): {2: 0.1, 4: 0.6, 6: 0.2},
    ("sft", 1): {2: 0.7, 4: 0.6, 6: 0.5},
}


def summarised(runs: Runs, **grid: tuple[str, ...]) -> pd.DataFrame:
    return tables.summary(scores(runs, **grid), METHODS)  # type: ignore[arg-type]


def squeezed(text: str) -> list[str]:
    """Lines with single spaces."""
    return re.sub(" +", " ", text).splitlines()


# --- the numbers -----------------------------------------------------------------------------------------------------


def test_statistics_are_over_epochs_first_and_over_seeds_then() -> None:
    found = summarised(TWO_SEEDS)
    found = found[found["split"] == "test"].set_index(["method", "statistic"])
    # vanilla: 0.2 and 0.4. sft: means 0.3 and 0.6, maxima 0.6 and 0.7, final 0.2 and 0.5.
    expected = {
        ("vanilla", "base"): (0.3, 0.02**0.5),
        ("sft", "mean"): (0.45, 0.045**0.5),
        ("sft", "maximum"): (0.65, 0.005**0.5),
        ("sft", "final"): (0.35, 0.045**0.5),
    }
    assert set(found.index) == set(expected)
    for key, (mean, std) in expected.items():
        assert found.loc[key, "accuracy"] == pytest.approx(mean)
        assert found.loc[key, "std"] == pytest.approx(std)  # with n - 1
    assert set(found["seeds"]) == {2}
    assert set(found["problems"]) == {4}


def test_the_final_epoch_is_the_last_and_not_the_last_row() -> None:
    found = summarised({("rl", 0): {10: 0.9, 2: 0.1}}).set_index(["split", "statistic"])["accuracy"]
    assert found.loc[("test", "final")] == 0.9


def test_one_seed_has_no_deviation() -> None:
    found = summarised({("vanilla", 0): {0: 0.25}, ("rl", 0): {1: 0.5}})
    assert found["std"].isna().all()
    assert "| 25.0 |" in " ".join(squeezed(tables.markdown(found, METHODS)))
    assert "pm" not in tables.latex(found, METHODS)


def test_epoch_0_of_a_trained_method_is_the_base_model_again() -> None:
    found = summarised({("vanilla", 0): {0: 0.2}, ("rl", 0): {0: 0.2, 1: 0.5}})
    assert set(zip(found["method"], found["statistic"], strict=True)) == {
        ("vanilla", "base"),
        *(("rl", statistic) for statistic in ("mean", "maximum", "final")),
    }


def test_methods_have_the_studys_order_and_rows_that_of_the_scores() -> None:
    methods = {"grpo": "rl", "sft": "sft", "vanilla": "vanilla"}
    runs: Runs = {("vanilla", 0): {0: 0.2}, ("sft", 0): {1: 0.3}, ("grpo", 0): {1: 0.4}}
    table = scores(runs, datasets=("z", "a"), settings=2)
    table = table[(table["dataset"] == "a") | (table["method"] != "sft")]  # z, the first, has no SFT
    found = tables.summary(table, methods)
    assert list(found["dataset"].unique()) == ["z", "a"]
    assert list(found["setting"].unique()) == ["pass@8", "pass@1"]
    assert tables.columns_of(found, methods) == [
        ("vanilla", "base"),
        *((method, statistic) for statistic in ("mean", "maximum", "final") for method in ("grpo", "sft")),
    ]


@pytest.mark.parametrize(
    ("points", "shade"),
    [(0, 0), (0.9, 0), (-0.9, 0), (1, 1), (4.9, 1), (5, 2), (-5, -2), (9.9, 2), (10, 3), (-10, -3), (60, 3)],
)
def test_a_shade_is_the_largest_step_that_a_change_reaches(points: float, shade: int) -> None:
    base = 0.3  # 0.35 - 0.3 is less than 0.05 in floating point
    table = tables.shades(summarised({("vanilla", 0): {0: base}, ("rl", 0): {1: base + points / 100}}), METHODS)
    found = table[table["method"] == "rl"]
    assert found["change"].to_numpy() == pytest.approx(points)
    assert set(found["shade"]) == {shade}
    assert set(found["colour"]) == {tables.COLOURS[shade]}
    assert table.loc[table["method"] == "vanilla", "change"].isna().all()
    assert set(table.loc[table["method"] == "vanilla", "shade"]) == {0}


def test_shades_deepen_alike_on_both_sides() -> None:
    def luminance(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    for sign in (1, -1):
        light = [luminance(tables.COLOURS[sign * shade]) for shade in (1, 2, 3)]
        assert light == sorted(light, reverse=True)


def test_without_a_vanilla_method_nothing_is_shaded() -> None:
    found = summarised({("sft", 0): {1: 0.2}, ("rl", 0): {1: 0.9}})
    assert tables.shades(found, METHODS)["change"].isna().all()
    assert "cellcolor" not in tables.latex(found, METHODS)


def test_gains_are_means_of_ratios() -> None:
    table = scores({("vanilla", 0): {0: 0.2}, ("rl", 0): {1: 0.2, 2: 0.4}, ("sft", 0): {1: 0.1, 2: 0.2}})
    table.loc[(table["split"] == "test") & (table["method"] == "vanilla"), "accuracy"] = 0.1
    found = tables.gains(tables.summary(table, METHODS), METHODS)
    # rl: mean 0.3, max 0.4, over 0.2 (validation) and 0.1 (test). sft: 0.15 and 0.2.
    assert found.drop(columns=["mean_gain", "peak_gain"]).to_numpy().tolist() == [
        ["text", "tiny", "sft", 2],
        ["text", "tiny", "rl", 2],
    ]
    assert found["mean_gain"].tolist() == pytest.approx([1.125, 2.25])
    assert found["peak_gain"].tolist() == pytest.approx([1.5, 3.0])


def test_over_a_base_of_0_there_is_no_gain() -> None:
    table = scores({("vanilla", 0): {0: 0.2}, ("rl", 0): {1: 0.4}})
    table.loc[(table["split"] == "test") & (table["method"] == "vanilla"), "accuracy"] = 0.0
    found = tables.gains(tables.summary(table, METHODS), METHODS)
    assert found["mean_gain"].isna().all() and found["peak_gain"].isna().all()
    assert list(found["cells"]) == [2]


# --- for people ------------------------------------------------------------------------------------------------------


def test_the_printed_table_is_the_papers() -> None:
    both = scores(TWO_SEEDS, settings=2)
    other = both.assign(dataset="vision")
    other = other[other["method"] == "vanilla"]
    lines = squeezed(tables.markdown(tables.summary(pd.concat([both, other]), METHODS), METHODS))
    assert [line for line in lines if line.startswith("#")] == [
        "### Validation: accuracy in %",
        "### Test: accuracy in %",
    ]
    start = lines.index("### Test: accuracy in %") + 2
    assert lines[start] == "| Data set | Model | Setting | Vanilla | SFT mean | SFT max | SFT final |"
    assert lines[start + 2 :] == [
        "| text | tiny | pass@8 | 30.0 ± 14.1 | 45.0 ± 21.2 | 65.0 ± 7.1 | 35.0 ± 21.2 |",
        "| | | pass@1 | 30.0 ± 14.1 | 45.0 ± 21.2 | 65.0 ± 7.1 | 35.0 ± 21.2 |",
        "| vision | tiny | pass@8 | 30.0 ± 14.1 | – | – | – |",
        "| | | pass@1 | 30.0 ± 14.1 | – | – | – |",
    ]


def test_several_methods_of_a_kind_have_a_column_each() -> None:
    runs: Runs = {("vanilla", 0): {0: 0.2}, ("rl", 0): {1: 0.3}, ("grpo", 0): {1: 0.4}}
    lines = squeezed(tables.markdown(summarised(runs), METHODS))
    columns = "Vanilla | RL mean | GRPO mean | RL max | GRPO max | RL final | GRPO final"
    assert f"| Data set | Model | Setting | {columns} |" in lines


# --- LaTeX -----------------------------------------------------------------------------------------------------------

# Two data sets, of which one has no SFT, times two models; accuracies 0.30 and by method and epoch.
GOLDEN = r"""
\begin{tabular}{l@{\hspace{5pt}}l@{\hspace{5pt}}l*{14}{c}}
\toprule
& & & \multicolumn{7}{c}{Validation} & \multicolumn{7}{c}{Test} \\
\cmidrule(lr){4-10} \cmidrule(lr){11-17}
Data set & Model & Setting & VANILLA & HEADS & VANILLA & HEADS \\
\midrule
\multirow{2}{*}{text\_1} & tiny & pass@1 & NUMBERS & NUMBERS \\
\cmidrule(l){2-17}
& big & pass@1 & NUMBERS & NUMBERS \\
\midrule
\multirow{2}{*}{50\%} & tiny & pass@1 & FEWER & FEWER \\
\cmidrule(l){2-17}
& big & pass@1 & FEWER & FEWER \\
\bottomrule
\end{tabular}
"""
PARTS = {
    "VANILLA": "Vanilla",
    "HEADS": r"\shortstack{SFT\\mean} & \shortstack{RL\\mean} & \shortstack{SFT\\max} & \shortstack{RL\\max} & "
    r"\shortstack{SFT\\final} & \shortstack{RL\\final}",
    # Vanilla 30; SFT 20 and 29.5; RL 33 and 40.
    "NUMBERS": r"30.0 & \cellcolor{worse2}24.8 & \cellcolor{better2}36.5 & 29.5 & \cellcolor{better3}40.0 & "
    r"29.5 & \cellcolor{better3}40.0",
    "FEWER": r"30.0 & -- & \cellcolor{better2}36.5 & -- & \cellcolor{better3}40.0 & -- & \cellcolor{better3}40.0",
}


@pytest.fixture
def two_by_two() -> pd.DataFrame:
    runs: Runs = {("vanilla", 0): {0: 0.3}, ("sft", 0): {1: 0.2, 2: 0.295}, ("rl", 0): {1: 0.33, 2: 0.4}}
    table = scores(runs, datasets=("text_1", "50%"), models=("tiny", "big"))
    return tables.summary(table[(table["dataset"] == "text_1") | (table["method"] != "sft")], METHODS)


def test_latex_is_the_papers_layout(two_by_two: pd.DataFrame) -> None:
    golden = GOLDEN
    for name, part in PARTS.items():
        golden = golden.replace(name, part)
    assert golden in tables.latex(two_by_two, METHODS)


def test_the_caption_states_the_scale(two_by_two: pd.DataFrame) -> None:
    text = tables.latex(two_by_two, METHODS)
    caption = re.sub(r"\\colorbox{(\w+)}{(\w+)}", r"\2 (\1)", text)
    assert "better by at least 1 (better1), 5 (better2) or 10 (better3)" in caption
    assert "worse by at least 1 (worse1), 5 (worse2) or 10 (worse3)" in caption
    assert r"\definecolor{worse3}{HTML}{DE77AE}" in text


def test_deviations_stand_below_their_accuracies() -> None:
    lines = tables.latex(summarised(TWO_SEEDS), METHODS).splitlines()
    first = next(i for i, line in enumerate(lines) if "pass@1" in line)
    assert lines[first].startswith(
        r"\multirow{2}{*}{text} & \multirow{2}{*}{tiny} & \multirow{2}{*}{pass@1} & 30.0 & \cellcolor{better3}45.0 &"
    )
    assert lines[first + 1].startswith(r"&  &  & \tiny $\pm$14.1 & \cellcolor{better3}\tiny $\pm$21.2 &")


def test_splits_are_below_each_other_where_methods_are_many() -> None:
    methods = {"vanilla": "vanilla", "reinforce_plus_plus": "rl", "grpo": "rl"}
    runs: Runs = {("vanilla", 0): {0: 0.2}, ("reinforce_plus_plus", 0): {1: 0.3}, ("grpo", 0): {1: 0.4}}
    table = scores(runs, datasets=("a_data_set_of_a_long_name",))
    text = tables.latex(tables.summary(table, methods), methods)
    assert r"*{7}{c}}" in text
    assert text.count(r"\multicolumn{7}{c}") == 2
    assert text.count("pass@1") == 2


def test_latex_finds_nothing_to_interpret_in_names() -> None:
    assert tables.escaped(r"a_b & 50% #1 $x$ {y} ~ ^ \z <>|") == (
        r"a\_b \& 50\% \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z "
        r"\textless{}\textgreater{}\textbar{}"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX")
def test_latex_compiles(tmp_path: Path, two_by_two: pd.DataFrame) -> None:
    odd = scores(TWO_SEEDS, datasets=(r"a_b & 50% #1 $x$ {y} ~ ^ \z <>|",), settings=2)
    texts = [tables.latex(found, METHODS) for found in (two_by_two, tables.summary(odd, METHODS))]
    texts.append(tables.latex(paper_table3.read(), paper_table3.METHODS))
    packages = r"\usepackage{booktabs, multirow}\usepackage[table]{xcolor}"
    body = "\n".join(texts)
    document = rf"\documentclass{{article}}{packages}\begin{{document}}{body}\end{{document}}"
    (tmp_path / "document.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


# --- the stage -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "scores"
    found.mkdir()
    scores(TWO_SEEDS).to_csv(found / "accuracy.csv", index=False)
    (found / "methods.json").write_text(json.dumps({"vanilla": "vanilla", "sft": "sft"}))
    return found


def test_a_run_and_a_folder_of_scores_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    run = TablesRun(out=str(tmp_path / "run"), scores=str(folder))
    (tmp_path / "run.json").write_text(run.canonical_json())
    tables.main([str(tmp_path / "run.json")])
    tables.main([str(folder), "--out", str(tmp_path / "given")])
    names = ("table3.csv", "table3.md", "table3.tex", "gains.csv", "metrics.json")
    written = {name: (tmp_path / "run" / name).read_bytes() for name in names}
    assert {path.name: path.read_bytes() for path in (tmp_path / "given").iterdir()} == written
    assert list(pd.read_csv(tmp_path / "run/table3.csv").columns) == (
        ["dataset", "model", "setting", "split", "method", "statistic", "accuracy", "std", "seeds", "problems"]
    )


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ({"vanilla": "vanilla"}, "no sft, which accuracy.csv has (methods: vanilla)"),
        ({"vanilla": "base", "sft": "sft"}, "vanilla is of the kind 'base' (allowed: vanilla, sft, rl, other)"),
        ({"vanilla": "vanilla", "sft": "vanilla"}, "vanilla, sft are vanilla; changes are against one method"),
    ],
)
def test_errors_name_the_file_and_what_is_allowed(folder: Path, methods: dict[str, str], said: str) -> None:
    (folder / "methods.json").write_text(json.dumps(methods))
    with pytest.raises(ValueError) as raised:
        tables.read_scores(folder)
    assert str(raised.value) == f"{folder / 'methods.json'}: {said}"


def test_a_folder_of_scores_needs_a_place_for_its_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        ([str(folder)], "say with --out DIR where its tables go"),
        ([str(folder / "nothing"), "--out", "tables"], "is no folder of scores"),
    ):
        with pytest.raises(SystemExit):
            tables.main(arguments)
        assert said in capsys.readouterr().err


# --- the paper's table -----------------------------------------------------------------------------------------------

PAPER = paper_table3.read()


def test_the_papers_table_is_whole() -> None:
    cells = PAPER.groupby(["dataset", "model", "setting", "split"], sort=False)
    assert cells.ngroups == 2 * 2 * 3 * 2
    statistics = {"mm_math5k": 5, "geometry3k": 3}  # geometry3k has no solutions, so no SFT
    assert all(len(rows) == statistics[rows["dataset"].iloc[0]] for _, rows in cells)
    assert len(PAPER) == 96
    assert not PAPER.duplicated(["dataset", "model", "setting", "split", "method", "statistic"]).any()
    assert PAPER["accuracy"].between(0.05, 0.8).all()


def test_a_maximum_is_no_less_than_its_mean_and_more_samples_no_worse() -> None:
    row = ["dataset", "model", "setting", "split"]
    wide = PAPER.pivot_table(index=[*row, "method"], columns="statistic", values="accuracy")
    trained = wide.dropna(subset="mean")
    assert len(trained) == 36
    assert (trained["maximum"] >= trained["mean"]).all()
    settings = PAPER.pivot_table(
        index=["dataset", "model", "split", "method", "statistic"], columns="setting", values="accuracy"
    )
    assert (settings["pass@8 t=1.0"] > settings[["pass@1 t=0.6", "pass@1 t=0.01"]].max(axis="columns")).all()


def test_sums_of_the_papers_columns() -> None:
    # Added up by hand from the table, which finds a number typed wrong.
    sums = (1000 * PAPER["accuracy"]).round().groupby([PAPER["split"], PAPER["method"], PAPER["statistic"]]).sum()
    assert {key: value / 10 for key, value in sums.items()} == {
        ("validation", "vanilla", "base"): 412.3,
        ("validation", "sft", "mean"): 208.1,
        ("validation", "rl", "mean"): 474.1,
        ("validation", "sft", "maximum"): 249.0,
        ("validation", "rl", "maximum"): 539.5,
        ("test", "vanilla", "base"): 399.6,
        ("test", "sft", "mean"): 107.0,
        ("test", "rl", "mean"): 451.0,
        ("test", "sft", "maximum"): 144.0,
        ("test", "rl", "maximum"): 510.3,
    }


def test_the_papers_headline_gains() -> None:
    found = tables.gains(PAPER, paper_table3.METHODS).set_index(["dataset", "model", "method"])
    assert (found["cells"] == 6).all()
    rounded = {key: (round(row["mean_gain"], 2), round(row["peak_gain"], 2)) for key, row in found.iterrows()}
    assert rounded == {
        ("mm_math5k", "Qwen2-VL-7B", "sft"): (1.04, 1.42),
        ("mm_math5k", "Qwen2-VL-7B", "rl"): (1.35, 1.76),  # as the text has them
        ("mm_math5k", "Qwen2.5-VL-7B", "sft"): (0.72, 0.90),
        ("mm_math5k", "Qwen2.5-VL-7B", "rl"): (1.07, 1.25),
        ("geometry3k", "Qwen2-VL-7B", "rl"): (1.36, 1.53),  # where the text has 1.36 and 1.51
        ("geometry3k", "Qwen2.5-VL-7B", "rl"): (1.02, 1.10),
    }


def test_the_stronger_base_model_gains_little() -> None:
    table = tables.shades(PAPER, paper_table3.METHODS)
    rl = table[(table["model"] == "Qwen2.5-VL-7B") & (table["method"] == "rl") & (table["statistic"] == "mean")]
    assert len(rl) == 12
    assert (rl["change"] < 0).sum() == 4
    assert rl["change"].between(0, 2).sum() == 3


def test_no_other_average_is_the_fourth_number() -> None:
    found = paper_table3.averages(PAPER)
    assert len(found) == 2 * 3 * 3 * 4 * 5
    found = found[found["dataset"] == "geometry3k"]
    assert not found["peak_gain"].round(2).eq(1.51).any()
    plain = found[(found["setting"] == "all") & (found["average"] == "mean")].set_index(["model", "split"])
    assert plain["peak_gain"].round(2).to_dict() == {
        ("all", "all"): 1.32,
        ("all", "validation"): 1.33,
        ("all", "test"): 1.30,
        ("Qwen2-VL-7B", "all"): 1.53,
        ("Qwen2-VL-7B", "validation"): 1.56,
        ("Qwen2-VL-7B", "test"): 1.50,
        ("Qwen2.5-VL-7B", "all"): 1.10,
        ("Qwen2.5-VL-7B", "validation"): 1.10,
        ("Qwen2.5-VL-7B", "test"): 1.10,
    }
    of_all = found[(found["model"] == "Qwen2-VL-7B") & (found["split"] == "all") & (found["setting"] == "all")]
    assert of_all.set_index("average")["peak_gain"].round(3).to_dict() == {
        "mean": 1.531,
        "geometric mean": 1.524,
        "harmonic mean": 1.516,
        "median": 1.566,
        "ratio of sums": 1.475,
    }


def test_neither_rounding_nor_leaving_cells_out_is_the_fourth_number() -> None:
    table = tables.with_base(PAPER, PAPER[PAPER["method"] == "vanilla"])
    table = table[(table["dataset"] == "geometry3k") & (table["model"] == "Qwen2-VL-7B") & (table["method"] == "rl")]
    peak, mean = (table[table["statistic"] == statistic] for statistic in ("maximum", "mean"))
    half = paper_table3.ROUNDED
    least = ((peak["accuracy"] - half) / (peak["base"] + half)).mean()
    assert round(least, 3) == 1.525
    peaks, means = ((rows["accuracy"] / rows["base"]).to_numpy() for rows in (peak, mean))
    subsets = [list(s) for size in range(1, 7) for s in itertools.combinations(range(6), size)]
    fitting = [s for s in subsets if round(peaks[s].mean(), 2) == 1.51 and round(means[s].mean(), 2) == 1.36]
    cells = list(zip(peak["setting"], peak["split"], strict=True))
    assert [[cells[i] for i in s] for s in fitting] == [
        [
            ("pass@8 t=1.0", "validation"),
            ("pass@8 t=1.0", "test"),
            ("pass@1 t=0.6", "test"),
            ("pass@1 t=0.01", "validation"),
        ]
    ]


def test_how_exact_a_cell_of_the_papers_table_is() -> None:
    errors = 100 * paper_table3.standard_errors(PAPER)
    base = PAPER[PAPER["method"] == "vanilla"]
    by_split = errors[base.index].groupby([base["dataset"], base["split"], base["problems"]]).agg(["min", "max"])
    assert by_split.round(1).T.to_dict("list") == {
        ("mm_math5k", "validation", 100): [3.7, 4.8],
        ("mm_math5k", "test", 100): [3.1, 5.0],
        ("geometry3k", "validation", 300): [2.2, 2.8],
        ("geometry3k", "test", 601): [1.6, 2.0],
    }


def test_runs_that_fit_by_hand() -> None:
    def fit(percent: float, problems: int) -> list[int]:
        return paper_table3.runs_that_fit(pd.Series([percent / 100]), pd.Series([problems]))

    assert fit(50.0, 100) == [1, 2, 3, 4, 5, 6]
    assert fit(55.7, 100) == [3, 4, 6]  # 55 2/3, or 55 3/4 rounded down
    assert fit(61.8, 100) == [4, 5, 6]  # 61 3/4, 61 4/5, 61 5/6
    assert fit(55.7, 1000) == [1, 2, 3, 4, 5, 6]


def test_how_many_runs_the_papers_numbers_can_be_means_of() -> None:
    def fit(dataset: str, model: str, method: str, statistic: str) -> list[int]:
        wanted = {"dataset": dataset, "model": model, "method": method, "statistic": statistic}
        rows = PAPER[np.logical_and.reduce([PAPER[column] == value for column, value in wanted.items()])]
        return paper_table3.runs_that_fit(rows["accuracy"], rows["problems"])

    for model in ("Qwen2-VL-7B", "Qwen2.5-VL-7B"):
        assert 3 in fit("geometry3k", model, "rl", "maximum")
        assert fit("mm_math5k", model, "sft", "maximum") == [1, 2, 3, 4, 5, 6]  # whole numbers
        for dataset in ("mm_math5k", "geometry3k"):
            assert 1 in fit(dataset, model, "vanilla", "base")
    assert fit("mm_math5k", "Qwen2-VL-7B", "rl", "maximum") == [3, 4, 6]
    assert fit("mm_math5k", "Qwen2.5-VL-7B", "rl", "maximum") == [4, 6]  # not 3
