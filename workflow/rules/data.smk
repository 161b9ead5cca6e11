# Problems in the paper's record, with their pictures; what they are; and whether each model can take them.


rule download:
    output:
        run="results/download/{name}/run.json",
        manifest="results/download/{name}/download.json",
    log:
        "logs/download/{name}.log",
    benchmark:
        "logs/benchmarks/download/{name}.tsv"
    conda:
        "../../envs/study.yaml"
    resources:
        **asked("other"),
    params:
        run=lambda wildcards: study.download_run(wildcards.name).canonical_json(),
        code=results_digest("stages.download"),
    shell:
        "echo {params.run:q} > {output.run}; HF_HUB_OFFLINE=$ASKED_OFFLINE exec python -m stages.download {output.run} > {log} 2>&1"


rule data:
    input:
        lambda wildcards: study.sources(wildcards.dataset),
    output:
        run="results/data/{dataset}/run.json",
        rows="results/data/{dataset}/rows.json",
        splits=expand(
            "results/data/{{dataset}}/{split}.jsonl",
            split=["train", "validation", "test"],
        ),
        images=directory("results/data/{dataset}/images"),
    log:
        "logs/data/{dataset}.log",
    benchmark:
        "logs/benchmarks/data/{dataset}.tsv"
    conda:
        "../../envs/study.yaml"
    resources:
        **asked("other"),
    params:
        run=lambda wildcards: study.data_run(wildcards.dataset).canonical_json(),
        code=results_digest("stages.data.prepare"),
    shell:
        "echo {params.run:q} > {output.run}; exec python -m stages.data.prepare {output.run} > {log} 2>&1"


rule preflight:
    input:
        splits=rules.data.output.splits,
        base="results/base/{model}/base.json",
    output:
        run="results/preflight/{model}/{dataset}/run.json",
        preflight="results/preflight/{model}/{dataset}/preflight.json",
    log:
        "logs/preflight/{model}/{dataset}.log",
    benchmark:
        "logs/benchmarks/preflight/{model}/{dataset}.tsv"
    conda:
        "../../envs/study.yaml"
    resources:
        **asked("other"),
    params:
        run=lambda w: study.preflight_run(w.model, w.dataset).canonical_json(),
        code=results_digest("stages.model.preflight"),
    shell:
        "echo {params.run:q} > {output.run}; exec python -m stages.model.preflight {output.run} > {log} 2>&1"


rule data_report:
    input:
        splits=rules.data.output.splits,
        rows=rules.data.output.rows,
        preflights=expand(
            "results/preflight/{model}/{{dataset}}/preflight.json", model=grid.models
        ),
    output:
        run="results/data_report/{dataset}/run.json",
        report="results/data_report/{dataset}/report.json",
        contact_sheet="results/data_report/{dataset}/contact_sheet.png",
    log:
        "logs/data_report/{dataset}.log",
    benchmark:
        "logs/benchmarks/data_report/{dataset}.tsv"
    conda:
        "../../envs/study.yaml"
    resources:
        **asked("other"),
    params:
        run=lambda wildcards: study.data_report_run(wildcards.dataset).canonical_json(),
        code=results_digest("stages.data.report"),
    shell:
        "echo {params.run:q} > {output.run}; exec python -m stages.data.report {output.run} > {log} 2>&1"
