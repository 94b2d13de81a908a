"""GET /v1/models: the models that take requests now."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from producer_api.auth import Tenant
from producer_api.envelope import json_response
from producer_api.services import Served, Services

router = APIRouter(tags=["models"])


@router.get("/v1/models")
async def list_models(services: Served, _tenant: Tenant) -> Response:
    """The loaded models."""
    return json_response({"object": "list", "data": [_model(name, services) for name in services.catalog.loaded]})


# A model's name may hold slashes.
@router.get("/v1/models/{name:path}")
async def get_model(name: str, services: Served, _tenant: Tenant) -> Response:
    """One loaded model."""
    return json_response(_model(name, services))


def _model(name: str, services: Services) -> dict[str, Any]:
    """OpenAI's object, and the context in tokens under the name that vLLM gives it. Raises ModelNotFound, ModelUnavailable."""
    context = services.catalog.get(name).context_length
    return {"id": name, "object": "model", "created": 0, "owned_by": "headrace", "max_model_len": context}
