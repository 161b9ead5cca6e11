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


def checkpoint_files(wildcards):
    """What the base is copied from; a folder that is no checkpoint is explained by the stage itself."""
    folder = Path(study.base_run(wildcards.model).checkpoint)
    recipe = study.base[wildcards.model].source == "recipe"
    return [str(folder / name) for name in CHECKPOINT if recipe or (folder / name).is_file()]


rule pretrain:
    output:
        run="results/pretrain/{model}/run.json",
        checkpoint=expand("results/pretrain/{{model}}/{file}", file=[*CHECKPOINT, "recipe.json", "README.md"]),
    log:
        "logs/pretrain/{model}.log",
    benchmark:
        "logs/benchmarks/pretrain/{model}.tsv"
    conda:
        "../../envs/study.yaml"
    threads: study.compute.threads
    resources:
        mem_mb=study.compute.memory_mb,
    params:
        run=lambda wildcards: study.pretrain_run(wildcards.model).canonical_json(),
        code=code_digest("stages.model.pretrain"),
    shell:
        "echo {params.run:q} > {output.run}; python -m stages.model.pretrain {output.run} > {log} 2>&1"


rule base:
    input:
        checkpoint_files,
    output:
        run="results/base/{model}/run.json",
        base="results/base/{model}/base.json",
        weights="results/base/{model}/model.safetensors",
    log:
        "logs/base/{model}.log",
    benchmark:
        "logs/benchmarks/base/{model}.tsv"
    conda:
        "../../envs/study.yaml"
    params:
        run=lambda wildcards: study.base_run(wildcards.model).canonical_json(),
        code=code_digest("stages.model.base"),
    shell:
        "echo {params.run:q} > {output.run}; python -m stages.model.base {output.run} > {log} 2>&1"


rule base_models:
    input:
        expand("results/base/{model}/base.json", model=grid.models),
