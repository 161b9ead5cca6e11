# Problems in the paper's record, with their pictures.


rule data:
    input:
        lambda wildcards: study.sources(wildcards.dataset),
    output:
        run="results/data/{dataset}/run.json",
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
    params:
        run=lambda wildcards: study.data_run(wildcards.dataset).canonical_json(),
        code=code_digest("stages.data.prepare"),
    shell:
        "echo {params.run:q} > {output.run}; python -m stages.data.prepare {output.run} > {log} 2>&1"
