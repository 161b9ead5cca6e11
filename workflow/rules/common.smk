# What the rules share.


def trained_weights(wildcards):
    """The weights to evaluate; the base model as it is has none."""
    kind = study.kind(wildcards.method)
    return (
        []
        if kind == "vanilla"
        else f"results/{kind}/{{model}}/{{dataset}}/{{method}}/seed{{seed}}/weights"
    )


def kept(weights):
    """A folder of trained weights; without `keep_weights` it is removed once it is evaluated."""
    return directory(weights) if grid.keep_weights else temp(directory(weights))
