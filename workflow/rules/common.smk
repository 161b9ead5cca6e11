# What the rules share.

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
    return [
        str(folder / name) for name in CHECKPOINT if recipe or (folder / name).is_file()
    ]


def trained_weights(wildcards):
    """The weights to evaluate; the base model as it is has none."""
    kind = study.kind(wildcards.method)
    return (
        []
        if kind == "vanilla"
        else f"results/{kind}/{{model}}/{{dataset}}/{{method}}/seed{{seed}}/weights"
    )
