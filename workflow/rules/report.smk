# What people look at: tables, figures, and one page of both.


rule tables:
    input:
        "results/scores/accuracy.csv",
    output:
        run="results/tables/run.json",
        tables=expand("results/tables/accuracy.{form}", form=["csv", "md"]),
    log:
        "logs/tables.log",
    benchmark:
        "logs/benchmarks/tables.tsv"
    conda:
        "../../envs/study.yaml"
    params:
        run=study.tables_run().canonical_json(),
        code=code_digest("stages.report.tables"),
    shell:
        "echo {params.run:q} > {output.run}; python -m stages.report.tables {output.run} > {log} 2>&1"


rule figures:
    input:
        rules.scores.output.tables,
    output:
        run="results/figures/run.json",
        figures=expand(
            "results/figures/{figure}_{model}_{dataset}.{form}",
            figure=["accuracy", "training", "reflection", "words"],
            model=grid.models,
            dataset=grid.datasets,
            form=["png", "svg"],
        ),
    log:
        "logs/figures.log",
    benchmark:
        "logs/benchmarks/figures.tsv"
    conda:
        "../../envs/study.yaml"
    params:
        run=study.figures_run().canonical_json(),
        code=code_digest("stages.report.figures"),
    shell:
        "echo {params.run:q} > {output.run}; python -m stages.report.figures {output.run} > {log} 2>&1"


rule report:
    input:
        rules.tables.output.tables,
        rules.figures.output.figures,
        templates=[
            str(Path(workflow.basedir, "stages/report", name))
            for name in ("report.md.jinja", "page.html.jinja")
        ],
        responses=rules.scores.input.evaluated,
        verdicts=rules.scores.input.verdicts,
    output:
        run="results/report/run.json",
        pages=expand("results/report/{page}", page=["report.md", "index.html"]),
    log:
        "logs/report.log",
    benchmark:
        "logs/benchmarks/report.tsv"
    conda:
        "../../envs/study.yaml"
    params:
        run=study.report_run().canonical_json(),
        code=code_digest("stages.report.report"),
    shell:
        "echo {params.run:q} > {output.run}; python -m stages.report.report {output.run} > {log} 2>&1"
