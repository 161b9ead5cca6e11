# What people look at: tables, figures, and one page of both.


rule tables:
    input:
        "results/scores/accuracy.csv",
        "results/scores/findings.json",
        "results/scores/methods.json",
    output:
        run="results/tables/run.json",
        table3=report(
            "results/tables/table3.csv",
            caption="../report/table3.rst",
            category="Tables",
            labels={"table": "accuracy (Table 3)"},
        ),
        tables=expand(
            "results/tables/{table}",
            table=["table3.md", "table3.tex", "gains.csv", "metrics.json"],
        ),
    log:
        "logs/tables.log",
    benchmark:
        "logs/benchmarks/tables.tsv"
    conda:
        "../../envs/study.yaml"
    resources:
        **asked("other"),
    params:
        run=study.tables_run().canonical_json(),
        code=results_digest("stages.report.tables"),
    shell:
        "echo {params.run:q} > {output.run}; exec python -m stages.report.tables {output.run} > {log} 2>&1"


FIGURES = [
    "training",
    "accuracy",
    "reflection",
    "words",
    "differences",
    "scatter",
    "types",
    "health",
    "pass_at_k",
]
drawn = expand(
    "{figure}_{model}_{dataset}",
    figure=FIGURES,
    model=grid.models,
    dataset=grid.datasets,
)


rule figures:
    input:
        rules.scores.output.tables,
    output:
        run="results/figures/run.json",
        figures=expand(
            "results/figures/{drawn}.{form}", drawn=drawn, form=["png", "csv"]
        ),
        reported=[
            report(
                f"results/figures/{name}.svg",
                caption="../report/figure.rst",
                category="Figures",
                labels={"figure": name},
            )
            for name in drawn
        ],
    log:
        "logs/figures.log",
    benchmark:
        "logs/benchmarks/figures.tsv"
    conda:
        "../../envs/study.yaml"
    resources:
        **asked("other"),
    params:
        run=study.figures_run().canonical_json(),
        code=results_digest("stages.report.figures"),
    shell:
        "echo {params.run:q} > {output.run}; exec python -m stages.report.figures {output.run} > {log} 2>&1"


rule report:
    input:
        rules.tables.output.table3,
        rules.tables.output.tables,
        rules.figures.output.figures,
        rules.figures.output.reported,
        rules.scores.output.tables,
        rules.scores.output.pictures,
        templates=sorted(
            str(path)
            for form in ("html", "css", "js")
            for path in Path(workflow.basedir, "stages/report").glob(f"*.{form}.jinja")
        ),
    output:
        run="results/report/run.json",
        page=report(
            "results/report/report.html",
            caption="../report/page.rst",
            category="Report",
            labels={"file": "the study on one page"},
        ),
        provenance="results/report/provenance.json",
    log:
        "logs/report.log",
    benchmark:
        "logs/benchmarks/report.tsv"
    conda:
        "../../envs/study.yaml"
    resources:
        **asked("other"),
    params:
        run=study.report_run(paper).canonical_json(),
        code=results_digest("stages.report.report"),
    shell:
        "echo {params.run:q} > {output.run}; exec python -m stages.report.report {output.run} > {log} 2>&1"
