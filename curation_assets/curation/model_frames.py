"""Model frames: which stored frames a model reads, and the frame sets that are added so that each gets pictures of the size that it was trained on."""

from __future__ import annotations

from curation_assets.models import registry
from curation_assets.models.embedder import EmbedderSpec
from curation_assets.models.scorer import ScorerSpec
from curation_assets.settings import FrameSet, ProcessingSettings, SettingsError


def frame_sets(settings: ProcessingSettings) -> dict[str, FrameSet]:
    """List the frame sets by name: those of the settings, then those that are added for models of other sizes."""
    sets = dict(settings.frame_sets.sets)
    specs = [registry.spec(model) for model in settings.embeddings.models]
    samples_again = settings.embeddings.too_few_frames == "re_extract"
    least: dict[str, int] = {}  # models of one shape share a set, which holds enough for each of them, whether it is switched on or not
    for model, spec in zip(settings.embeddings.models, specs, strict=True):
        name = frame_set_of(settings, model)
        least[name] = max(spec.frames, *(other.frames for other in map(registry.spec, registry.names()) if _name(other) == _name(spec)))
        if name not in settings.frame_sets.sets and settings.embeddings.frame_set is None:
            sets[name] = FrameSet(
                purpose="embeddings", target_fps=settings.embeddings.target_fps, target_res=(spec.height_px, spec.width_px), fit=spec.resize
            )
    for scorer in _model_scorers(settings):
        if _configured(settings, scorer) is None:
            # swscale's bicubic is nearer to the scaling that the model was trained with than its scaling by area
            sets[_name(scorer)] = FrameSet(
                purpose="aesthetics", target_res=(scorer.height_px, scorer.width_px), fit=scorer.resize, scaling="bicubic", quality=95
            )
    for name, item in sets.items():
        if item.min_frames is None and (name in least or item.purpose == "embeddings"):
            # a set that the settings name serves other models too, later: the purpose's own number is the least
            own = item.least_frames if name in settings.frame_sets.sets else 1
            wanted = min(max(own, least.get(name, 1)), item.max_frames)
            sets[name] = item.model_copy(update={"min_frames": wanted if samples_again else 1})
    return sets


def _model_scorers(settings: ProcessingSettings) -> list[ScorerSpec]:
    return [registry.SCORERS[name] for name in settings.clip_scores.scorers if name in registry.SCORERS]


def frame_set_of(settings: ProcessingSettings, model: str) -> str:
    """Return the name of the frame set that a model or scorer reads."""
    spec = registry.any_spec(model)
    if isinstance(spec, ScorerSpec):
        return _configured(settings, spec) or _name(spec)
    return settings.embeddings.frame_set or _configured(settings, spec) or _name(spec)


def deciding_frame_set(settings: ProcessingSettings, model: str | None) -> str | None:
    """Return the frame set whose outcome says whether a clip has frames: that of a model, of the source's first one where it does not use that; without models
    the first of clips.
    """
    models = settings.embeddings.models
    if models:
        return frame_set_of(settings, model if model in models else models[0])
    return next((name for name, item in settings.frame_sets.sets.items() if item.scope == "clip"), None)


def _configured(settings: ProcessingSettings, spec: EmbedderSpec | ScorerSpec) -> str | None:
    """Find the first set of the settings that is made for such models and has this one's shape, else the one that has the name of the set that would be added.

    Raises:
        SettingsError: that one is of whole videos.
    """
    purpose = "aesthetics" if isinstance(spec, ScorerSpec) else "embeddings"
    for name, item in settings.frame_sets.sets.items():
        is_for_models = item.purpose == purpose and item.scope == "clip"
        if is_for_models and item.size == (spec.height_px, spec.width_px) and item.fit == spec.resize:
            return name
    named = settings.frame_sets.sets.get(_name(spec))
    if named is not None and named.scope != "clip":
        raise SettingsError(
            f"frame_sets.sets.{_name(spec)} is what {spec.name} reads, and has scope 'video': give it scope clip, or another name"
        )
    return _name(spec) if named is not None else None


def _name(spec: EmbedderSpec | ScorerSpec) -> str:
    # an embedding model's set of the same shape has another rate
    return f"{'aesthetics-' if isinstance(spec, ScorerSpec) else ''}{spec.resize}-{spec.height_px}x{spec.width_px}"
