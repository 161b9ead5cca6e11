# The base models: given as a checkpoint, or built and pre-trained from a recipe.

CHECKPOINT = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


rule pretrain:
    output:
        run="results/pretrain/{model}/run.json",
        checkpoint=expand(
            "results/pretrain/{{model}}/{file}",
            file=[*CHECKPOINT, "recipe.json", "README.md"],
        ),
    log:
        "logs/pretrain/{model}.log",
    benchmark:
        "logs/benchmarks/pretrain/{model}.tsv"
    conda:
        "../../envs/study.yaml"
    threads: study.compute.threads
    resources:
        **asked("other"),
    params:
        run=lambda wildcards: study.pretrain_run(wildcards.model).canonical_json(),
        code=results_digest("stages.model.pretrain"),
    shell:
        "echo {params.run:q} > {output.run}; exec python -m stages.model.pretrain {output.run} > {log} 2>&1"


rule base:
    input:
        lambda wildcards: study.checkpoint_sources(wildcards.model)
        or expand(rules.pretrain.output.checkpoint, model=wildcards.model),
    output:
        run="results/base/{model}/run.json",
        base="results/base/{model}/base.json",
        checkpoint=directory("results/base/{model}/checkpoint"),
    log:
        "logs/base/{model}.log",
    benchmark:
        "logs/benchmarks/base/{model}.tsv"
    conda:
        "../../envs/study.yaml"
    resources:
        **asked("other"),
    params:
        run=lambda wildcards: study.base_run(wildcards.model).canonical_json(),
        code=results_digest("stages.model.base"),
    shell:
        "echo {params.run:q} > {output.run}; exec python -m stages.model.base {output.run} > {log} 2>&1"
