"""Responses from vLLM: an engine in this very process, beside the learner, that takes over its weights.

Letters: B rows; R tokens of the longest response.
"""

import logging
import os
import random
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from stages.config import Compute, Sampling
from stages.model.vlm import VLM
from stages.rl.data_flow import Queries
from stages.rl.response_collection import Responses, check_it_speaks, texts_of

VISUAL = "model.visual."
BAN = -100.0  # added to a banned token's logit
# Of the picture's processing, not of the engine's caches: gigabytes of the host's memory.
PROCESSOR_CACHE_GB = 1
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
# What vLLM reads while it is imported and works; who has set one of them keeps it.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine is no process of its own: weights are handed over, not sent
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the learner's threads stay where they are
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",  # it warns of every layer of the vision tower, which is not pushed
    "HF_HUB_OFFLINE": "1",
}


class VLLMCollector:
    """Samples with vLLM; between `rest` and `load` the engine leaves the GPU to the learner.

    Args:
        vlm: says what a prompt's tokens are, which tokens end a response, and which are banned.
        base: folder of the weights that it begins with.
        compute: where and how it computes.
        longest: tokens of the longest prompt and response together.
        kv_cache_mb: memory for keys and values, in MB.

    Raises:
        ValueError: vLLM is not installed, or cannot be started so.
    """

    def __init__(self, vlm: VLM, base: Path, compute: Compute, longest: int, kv_cache_mb: int) -> None:
        self.vlm = vlm
        self.stop_ids, self.banned_ids = vlm.stop_ids.tolist(), vlm.banned_ids.tolist()
        weights = vlm.model.named_parameters()
        self.wanted = {name for name, weight in weights if weight.requires_grad or not name.startswith(VISUAL)}
        self.sleeps = compute.device == "cuda"
        self.asleep = False
        launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
        self.environment = ENVIRONMENT | {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        with _undisturbed(self.environment), _as_checkpoint(base, vlm.processor) as folder:
            vllm = _imported()
            self.parameters = vllm.SamplingParams
            try:
                self.engine = vllm.LLM(
                    model=str(folder),
                    dtype=compute.dtype,
                    max_model_len=longest,
                    # One engine a process, each on the GPU that the launcher gave it, none waiting for another.
                    distributed_executor_backend="external_launcher" if launched else "uni",
                    kv_cache_memory_bytes=kv_cache_mb * 10**6,
                    # Checked against the memory that is free, of which the learner has taken its part.
                    gpu_memory_utilization=0.01,
                    enforce_eager=compute.device == "cpu",
                    limit_mm_per_prompt={"image": 1, "video": 0},
                    mm_processor_cache_gb=PROCESSOR_CACHE_GB,
                    logprobs_mode="processed_logprobs",
                    generation_config="vllm",
                    enable_sleep_mode=self.sleeps,
                    # What is not pushed again must outlive a sleep.
                    sleep_preserve_parameter_names=["visual.*"] if self.sleeps else [],
                    use_tqdm_on_load=False,
                )
            except ValueError as mistake:
                told = f"vLLM does not start with resources.memory.kv_cache_mb={kv_cache_mb} and {longest} tokens a row"
                raise ValueError(f"{told}: {mistake}") from None

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the weights, all but those of the vision tower that are not trained.

        Raises:
            ValueError: some are missing, which leaves the engine useless.
        """
        with _undisturbed(self.environment):
            self._wake("weights")
            missing = set(self.wanted)

            def seen() -> Iterator[tuple[str, Tensor]]:
                for name, weight in weights:
                    missing.discard(name)
                    yield name, weight

            self.engine.collective_rpc("reload_weights", kwargs={"weights_iterator": seen()})
            if missing:  # vLLM fills what it fuses them with, and says nothing
                raise ValueError(f"{len(missing)} weights were not given to vLLM, {min(missing)} among them")
            if "lm_head.weight" not in self.wanted:
                self.engine.collective_rpc(_prepare_tied_head)
            self._wake("kv_cache")
            self.asleep = False
            # Keys and values of the former weights, and the former pictures' features.
            self.engine.reset_prefix_cache()
            self.engine.llm_engine.reset_encoder_cache()

    def rest(self) -> None:
        """Leave the GPU's memory to the learner until the next `load`."""
        if self.sleeps:
            with _undisturbed(self.environment):
                self.engine.sleep(level=2)
            self.asleep = True

    def _wake(self, tag: str) -> None:
        if self.asleep:
            self.engine.wake_up(tags=[tag])

    def collect(self, queries: Queries, sampling: Sequence[Sampling], seeds: Sequence[int]) -> Responses:
        """Answer each row as a request of its own.

        A token's log-probability is at its row's temperature and top_p, not at 1: the learner's only where both are 1.

        Raises:
            ValueError: vLLM understands a prompt otherwise than our processor, or the policy says nothing but vision
                placeholders.
        """
        expected = [ids[real].tolist() for ids, real in zip(queries.token_ids, queries.mask, strict=True)]
        pictures = [self._picture(problem.picture()) for problem in queries.problems[:: queries.group_size]]
        prompts = [
            {
                "prompt_token_ids": self._unexpanded(ids),
                "multi_modal_data": {"image": pictures[i // queries.group_size]},
            }
            for i, ids in enumerate(expected)
        ]
        asked = [self._request(s, seed) for s, seed in zip(sampling, seeds, strict=True)]
        # Without a GPU vLLM would compile one small function, for ten seconds and with a C++ compiler.
        stance = "default" if self.sleeps else "force_eager"
        with _undisturbed(self.environment), torch.compiler.set_stance(stance):
            answers = self.engine.generate(prompts, asked, use_tqdm=False)
        for problem, ids, answer in zip(queries.problems, expected, answers, strict=True):
            if list(answer.prompt_token_ids) != ids:
                raise ValueError(
                    f"{problem.id}: vLLM reads a prompt of {len(answer.prompt_token_ids)} tokens, our processor wrote "
                    f"{len(ids)}; they must be the same tokens"
                )
        return self._responses([answer.outputs[0] for answer in answers], sampling)

    def _picture(self, picture: Image.Image) -> Image.Image:
        """As large as our processor makes it, by the same means, so that vLLM finds nothing to resize."""
        processor = self.vlm.processor.image_processor
        height, width = smart_resize(
            picture.height,
            picture.width,
            factor=processor.patch_size * processor.merge_size,
            min_pixels=processor.size["shortest_edge"],
            max_pixels=processor.size["longest_edge"],
        )
        return picture.resize((width, height), Image.Resampling(processor.resample))

    def _unexpanded(self, token_ids: list[int]) -> list[int]:
        """A prompt with one placeholder for its picture, where the model sees one for each feature."""
        image = self.vlm.model.config.image_token_id
        return [token for i, token in enumerate(token_ids) if not (token == image and i and token_ids[i - 1] == image)]

    def _request(self, sampling: Sampling, seed: int) -> Any:
        return self.parameters(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            seed=seed >> 1,  # signed, in vLLM
            stop_token_ids=self.stop_ids,
            ignore_eos=True,  # it is one of those
            logit_bias=dict.fromkeys(self.banned_ids, BAN),
            logprob_token_ids=self.banned_ids,
            detokenize=False,
        )

    def _responses(self, answers: list[Any], sampling: Sequence[Sampling]) -> Responses:
        device = self.vlm.device
        lengths = torch.tensor([len(answer.token_ids) for answer in answers], device=device)
        reach = int(lengths.max())
        token_ids = torch.full((len(answers), reach), self.vlm.processor.tokenizer.pad_token_id)
        logprobs, banned = torch.zeros(len(answers), reach), torch.zeros(len(answers), reach)
        for i, (answer, s) in enumerate(zip(answers, sampling, strict=True)):
            length = len(answer.token_ids)
            token_ids[i, :length] = torch.tensor(answer.token_ids)
            logprobs[i, :length], banned[i, :length] = self._without_ban(answer, s.temperature)
        token_ids, logprobs, banned = token_ids.to(device), logprobs.to(device), banned.to(device)
        mask = torch.arange(reach, device=device) < lengths[:, None]
        check_it_speaks(banned[mask])
        finished = torch.tensor([answer.finish_reason == "stop" for answer in answers], device=device)
        return Responses(texts_of(self.vlm, token_ids, mask), token_ids, mask, finished, logprobs)

    def _without_ban(self, answer: Any, temperature: float) -> tuple[Tensor, Tensor]:
        """[R] log-probability of each token, and the probability of the banned ones, as both were before the ban.

        The ban divides the banned tokens' weight by a known number, and leaves the others' as it was.
        """
        drawn = [at[token].logprob for token, at in zip(answer.token_ids, answer.logprobs, strict=True)]
        banned = [[at[token].logprob for token in self.banned_ids] for at in answer.logprobs]
        odds = (torch.tensor(banned, dtype=torch.float64) - BAN / temperature).logsumexp(1)  # against all that is left
        return torch.tensor(drawn) - F.softplus(odds), odds.sigmoid()


def _prepare_tied_head(worker: Any) -> None:
    """Renew what the output layer computes with on a CPU, a packed copy of the embedding: vLLM leaves it as it was."""
    head = worker.model_runner.get_model().language_model.lm_head
    head.quant_method.process_weights_after_loading(head)


@contextmanager
def _as_checkpoint(base: Path, processor: Any) -> Iterator[Path]:
    """A folder with a base's files and the study's processor: vLLM reads the pixel budget from it, too.

    It also wants the settings of a processor of videos, which it finds in the same file.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file in base.iterdir():
            if file.name not in PROCESSOR_FILES:
                (folder / file.name).symlink_to(file.resolve())
        processor.image_processor.save_pretrained(folder)
        yield folder


def _imported() -> Any:
    logging.getLogger("vllm").setLevel(logging.ERROR)  # it sets its own level only after its first words
    try:
        import vllm
    except ModuleNotFoundError as error:
        if error.name != "vllm":
            raise
        raise ValueError(
            "collector.engine: vllm, but vLLM is not installed; with a GPU: pip install --constraint envs/cpu.lock "
            "vllm==0.32.0, without one: make vllm (docs/vllm.md)"
        ) from None
    return vllm


@contextmanager
def _undisturbed(environment: dict[str, str]) -> Iterator[None]:
    """vLLM takes a process for its own: what the learner has set in it is set again afterwards.

    Args:
        environment: variables for vLLM alone; what it adds to them is added here.
    """
    before, threads, set_threads = dict(os.environ), torch.get_num_threads(), torch.set_num_threads
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    os.environ.update(environment)
    with torch.random.fork_rng(gpus), warnings.catch_warnings(action="ignore", category=FutureWarning):
        try:
            yield
        finally:
            environment |= {name: value for name, value in os.environ.items() if before.get(name) != value}
            for name in environment.keys() - before.keys():
                os.environ.pop(name, None)
            os.environ.update(before)
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
            torch.set_num_threads = set_threads
            torch.set_num_threads(threads)
