"""One export as a value: the model, what is asked of it, and all that its small files say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from qsched_runtime.schedule import ScheduleTable

from qsched_edge.bundle.sources import source_hashes
from qsched_edge.capture.graph import Captured
from qsched_edge.checkpoint.inversion import LearnedRows, learned
from qsched_edge.checkpoint.lora import FusedWeights, lora_components
from qsched_edge.checkpoint.recipes import ModelSpec
from qsched_edge.checkpoint.schedule import schedules_of
from qsched_edge.checkpoint.weights import Weights
from qsched_edge.export.check import check_recipe
from qsched_edge.export.graphs import Graphs
from qsched_edge.export.settings import ExportSettings
from qsched_edge.pipelines import ComponentPlan, Layout, layout_of
from qsched_edge.pipelines.tokenizers import Tokenizer, load_tokenizers
from qsched_edge.precision import Scheme
from qsched_edge.prompts import PromptSet


@dataclass(frozen=True)
class ExportJob:
    """`tokenizers` and `schedules` are read and checked, `sources` are the hashes of all weight files; `prompts` is
    None where nothing is observed; `graphs` keeps what was traced, once there is a place for it."""

    spec: ModelSpec
    settings: ExportSettings
    layout: Layout
    scheduler: Mapping[str, Any]
    schedules: Mapping[int, ScheduleTable]
    tokenizers: Mapping[str, Tokenizer]
    sources: Mapping[str, str]
    prompts: PromptSet | None
    quiet: bool = False
    graphs: Graphs | None = None

    @property
    def backbone(self) -> ComponentPlan:
        (plan,) = (c for c in self.layout.components if c.name == self.layout.backbone)
        return plan

    @property
    def watched(self) -> dict[str, Any] | None:
        """What provenance says of the prompts that were observed."""
        return self.prompts.record(self.settings.observed.count) if self.prompts else None

    def scheme(self, component: str, weight: str, kind: str = "", bits: int | None = None) -> Scheme:
        return self.settings.scheme(self.spec.recipe, component, weight, kind, bits)

    def weights(self, plan: ComponentPlan) -> Weights:
        """The component's tensors, with the rows of learned words and the recipe's LoRA where it has them."""
        base = self.with_words(plan, self.spec.weights(plan.component, plan.source, plan.prefixes, plan.aliases))
        lora = self.spec.lora_file()
        if lora is None or plan.component not in lora_components(lora):
            return base
        return FusedWeights(base, lora, plan.component, self.spec.recipe.lora_scale)

    def with_words(self, plan: ComponentPlan, base: Weights) -> Weights:
        """`base` with a row for each token of a textual inversion."""
        words = learned(self.spec, plan.component)
        if not words:
            return base
        tokens = self.tokenizers[plan.inputs["input_ids"]["tokenizer"]].stock
        rows = {tokens.convert_tokens_to_ids(t): row for w in words for t, row in zip(w.tokens, w.rows(), strict=True)}
        return LearnedRows(base, rows)

    def captured(self, plan: ComponentPlan) -> Captured:
        """The component's weightless graph, traced once; whoever asks gets one to fill."""
        assert self.graphs is not None
        return self.graphs.of(plan)

    def with_layers(self, layers: Mapping[str, int]) -> ExportJob:
        """The same with widths chosen weight by weight."""
        return replace(self, spec=replace(self.spec, recipe=replace(self.spec.recipe, layers=layers)))

    def in_full(self) -> ExportJob:
        """The same model in 32 bits, which observes nothing; it shares the traced graphs."""
        plain = self.settings.portable or self.settings.whole  # Neural Compressor reads ONNX's own operators
        settings = ExportSettings(32, choices=self.settings.choices, ram=self.settings.ram, portable=plain)
        return replace(self.with_layers({}), settings=settings, prompts=None)


def job_of(spec: ModelSpec, settings: ExportSettings, quiet: bool) -> ExportJob:
    """Everything that can be refused without reading a weight, is refused here."""
    layout = layout_of(spec, settings.choices)
    check_recipe(spec, layout_of(spec, replace(settings.choices, encoder=True)))
    scheduler = spec.scheduler_config()
    schedules = schedules_of(scheduler, spec.recipe.steps, layout.sampling)
    tokenizers = load_tokenizers(spec, layout)
    prompts = settings.observed.prompt_set(spec) if settings.observes else None
    if prompts:
        prompts.first(settings.observed.count)  # too few of them are found out before the weights are hashed
    sources = source_hashes(spec, layout)
    return ExportJob(spec, settings, layout, scheduler, schedules, tokenizers, sources, prompts, quiet)
