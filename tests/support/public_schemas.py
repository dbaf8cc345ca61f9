"""Public schemas of what we export, as far as exports use them, written down from the published ones.

Each refuses a field that the published schema does not have.
"""

from __future__ import annotations

import jsonschema_rs

TEXT = {"type": "string"}
TEXTS = {"type": "array", "items": TEXT}
MAP_OF_TEXT = {"type": "object", "additionalProperties": TEXT}


def strict(required=(), **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def resource(group, kind, spec):
    """Return the schema of a custom resource."""
    dns = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
    metadata = strict(["name"], name=dns, namespace=dns, labels=MAP_OF_TEXT, annotations=MAP_OF_TEXT)
    return strict(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": group},
        kind={"const": kind},
        metadata=metadata,
        spec=spec,
    )


MODEL_ADAPTER = resource(
    "model.aibrix.ai/v1alpha1",
    "ModelAdapter",
    strict(
        ["artifactURL", "podSelector"],
        additionalConfig=MAP_OF_TEXT,
        artifactURL=TEXT,
        baseModel=TEXT,
        credentialsSecretRef=strict(name=TEXT),
        podSelector=strict(matchLabels=MAP_OF_TEXT, matchExpressions={"type": "array"}),
        replicas={"enum": [1]},
        schedulerName=TEXT,
    ),
)
"""AIBrix, config/crd/model/model.aibrix.ai_modeladapters.yaml after v0.7.0-rc.3 (commit e3e10f9e4aeb)."""

LORA_ADAPTER = resource(
    "production-stack.vllm.ai/v1alpha1",
    "LoraAdapter",
    strict(
        ["adapterSource", "baseModel"],
        adapterSource=strict(
            ["adapterName", "type"],
            adapterName=TEXT,
            adapterPath=TEXT,
            credentialsSecretRef=strict(["key", "name"], key=TEXT, name=TEXT),
            maxAdapters={"type": "integer"},
            pattern=TEXT,
            repository=TEXT,
            type={"enum": ["local", "s3", "http", "huggingface"]},
        ),
        baseModel=TEXT,
        loraAdapterDeploymentConfig=strict(
            ["algorithm"],
            algorithm={"enum": ["default", "ordered", "equalized"]},
            replicas={"type": "integer", "minimum": 0},
        ),
        vllmApiKey=strict(["secretKey", "secretName"], secretKey=TEXT, secretName=TEXT),
    ),
)
"""production-stack, helm/crds/crd-lora-adapter.yaml after vllm-stack-0.1.9 (commit a6c01db05f65)."""

_DEVICE = strict(["capabilities"], capabilities=TEXTS, driver=TEXT, device_ids=TEXTS, count={})
_RESERVATIONS = strict(cpus={}, memory=TEXT, devices={"type": "array", "items": _DEVICE})
_LIMITS = strict(cpus={"type": ["string", "number"]}, memory=TEXT, pids={"type": ["integer", "string"]})
_HEALTH = strict(
    test=TEXTS, interval=TEXT, timeout=TEXT, retries={"type": "number"}, start_period=TEXT, disable={}
)
_MOUNT = strict(["type"], type=TEXT, source=TEXT, target=TEXT, read_only={"type": "boolean"})
_DEPENDENCY = strict(
    ["condition"],
    condition={"enum": ["service_started", "service_healthy", "service_completed_successfully"]},
    restart={"type": "boolean"},
)
_SERVICE = strict(
    image=TEXT,
    build={"type": ["string", "object"]},
    entrypoint=TEXTS,
    command=TEXTS,
    environment={"type": ["object", "array"]},
    ports={"type": "array", "items": {"type": ["string", "object"]}},
    volumes={"type": "array", "items": {"anyOf": [TEXT, _MOUNT]}},
    ipc=TEXT,
    user=TEXT,
    init={"type": "boolean"},
    read_only={"type": "boolean"},
    tmpfs=TEXTS,
    cap_drop=TEXTS,
    security_opt=TEXTS,
    restart=TEXT,
    stop_grace_period=TEXT,
    healthcheck=_HEALTH,
    depends_on={"type": "object", "additionalProperties": _DEPENDENCY},
    networks=TEXTS,
    configs={"type": "array"},
    secrets={"type": "array"},
    labels=MAP_OF_TEXT,
    deploy=strict(
        resources=strict(reservations=_RESERVATIONS, limits=_LIMITS), replicas={"type": ["integer", "string"]}
    ),
)
COMPOSE = {
    **strict(
        ["services"],
        name={"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        services={
            "type": "object",
            "patternProperties": {"^[a-zA-Z0-9._-]+$": _SERVICE},
            "additionalProperties": False,
        },
        volumes={"type": "object"},
        networks={"type": "object"},
        configs={"type": "object"},
        secrets={"type": "object"},
    ),
    "patternProperties": {"^x-": {}},
}
"""compose-spec, schema/compose-spec.json (commit 170098ba07d9)."""


def check(schema, document):
    """Fail, naming the place, where a document breaks a schema."""
    errors = [
        f"{error.instance_path}: {error.message}"
        for error in jsonschema_rs.validator_for(schema).iter_errors(document)
    ]
    assert not errors, errors


_TRIGGER = strict(
    ["metadata", "type"],
    type=TEXT,
    name=TEXT,
    metadata=MAP_OF_TEXT,
    metricType=TEXT,
    useCachedMetrics={"type": "boolean"},
    authenticationRef=strict(["name"], name=TEXT, kind=TEXT),
)
_WHOLE = {"type": "integer"}
SCALED_OBJECT = resource(
    "keda.sh/v1alpha1",
    "ScaledObject",
    strict(
        ["scaleTargetRef", "triggers"],
        scaleTargetRef=strict(["name"], apiVersion=TEXT, kind=TEXT, name=TEXT, envSourceContainerName=TEXT),
        pollingInterval=_WHOLE,
        cooldownPeriod=_WHOLE,
        initialCooldownPeriod=_WHOLE,
        idleReplicaCount=_WHOLE,
        minReplicaCount=_WHOLE,
        maxReplicaCount=_WHOLE,
        fallback=strict(
            ["failureThreshold", "replicas"],
            failureThreshold=_WHOLE,
            replicas=_WHOLE,
            behavior={
                "enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]
            },
        ),
        advanced=strict(
            horizontalPodAutoscalerConfig=strict(behavior={"type": "object"}, name=TEXT),
            restoreToOriginalReplicaCount={"type": "boolean"},
            scalingModifiers={"type": "object"},
        ),
        triggers={"type": "array", "items": _TRIGGER},
    ),
)
"""KEDA, config/crd/bases/keda.sh_scaledobjects.yaml (commit 8b4f083ca8c8)."""

TRIGGER_AUTHENTICATION = resource(
    "keda.sh/v1alpha1",
    "TriggerAuthentication",
    strict(
        secretTargetRef={
            "type": "array",
            "items": strict(["key", "name", "parameter"], key=TEXT, name=TEXT, parameter=TEXT),
        }
    ),
)
"""KEDA, config/crd/bases/keda.sh_triggerauthentications.yaml (commit 8b4f083ca8c8)."""
