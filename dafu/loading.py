"""The stages as the settings want them: reads the rule file and the model package.

Worker, file scoring and tools build their stages here, so that all of them decide alike. What
reads payments in other words is made here as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dafu.errors import DafuError
from dafu.features.catalogue import ALIASES, CATALOGUE_HASH
from dafu.models.errors import ModelPackageError
from dafu.models.package import load_model, load_package
from dafu.models.recurrent import RecurrentModel
from dafu.rules import load_rules
from dafu.settings import Settings
from dafu.stages.merchants import MerchantStage
from dafu.stages.names import RULE_NAMES
from dafu.stages.users import UserStage

if TYPE_CHECKING:
    from dafu.agents.source import Payments


def load_stages(
    settings: Settings, *, rings: bool | None = None
) -> tuple[UserStage, MerchantStage]:
    """Build both stages.

    Parameters
    ----------
    settings : Settings
    rings : bool or None
        Whether they tell those who find rings; None for what the settings say.

    Raises
    ------
    DafuError
        If the rule file or the model package can not be used; the message says why.
    """
    if rings is None:
        rings = settings.rings.enabled
    rules = load_rules(settings.rules_file, RULE_NAMES, ALIASES)
    model = None
    if settings.model_path is not None:
        model = load_model(settings.model_path, CATALOGUE_HASH)
    sequence: RecurrentModel | None = None
    if settings.sequence_model is not None:
        found = load_package(settings.sequence_model, CATALOGUE_HASH)
        if not isinstance(found, RecurrentModel):
            raise ModelPackageError(
                f"{settings.sequence_model}: a model of kind {found.kind} is no sequence model"
            )
        sequence = found
    return (
        UserStage(int(settings.limits.max_future_skew_s * 1000), sequence, rings=rings),
        MerchantStage(rules, model, settings.thresholds, rings=rings),
    )


class SourceFormatError(DafuError):
    """Payments are to be read in a format for which something is not installed."""


def source_payments(settings: Settings) -> Payments | None:
    """How the payments on the source topic are read; None if there is no such topic.

    Raises
    ------
    DafuError
        If there is no such mapping, or it is wrong; if the format wants what is not installed; if
        certificates for the schema registry can not be used.
    """
    source = settings.source
    if source.topic is None:
        return None
    from dafu.agents.source import AvroSchemas, Payments
    from dafu.ingest import load_mapping
    from dafu.ingest.messages import Translator, framed_json_document
    from dafu.streaming.schema_registry import SchemaRegistryClient

    mapping = load_mapping(source.mapping)
    if source.format == "json":
        return Payments(Translator(mapping))
    if source.format == "json-schema":
        return Payments(Translator(mapping, framed_json_document))
    try:
        from dafu.ingest.avro import AvroReader
    except ImportError as exc:
        raise SourceFormatError(
            "payments in Avro (DAFU_SOURCE_FORMAT=avro) need the package fastavro: "
            "pip install 'dafu[avro]'"
        ) from exc
    schemas = AvroSchemas(AvroReader(), SchemaRegistryClient(settings.schema_registry))
    return Payments(Translator(mapping, schemas.reader.read), schemas)
