"""The engine room: the only way to a model. Imports nothing of the web application.

    LLMInferenceService   asks any model, wherever it runs (service.py)
    LLMModelManager       loads models, lets them go (model_manager.py)
    InferenceHandler      what to inherit from, to serve models of another kind (handlers/base.py)
    InferenceFactory      conversations with a local or a cloud model (factory.py)

What needs an optional library (transformers, llama-cpp-python) is imported when a model needs it.
"""

from api_server.errors import (
    ConfigurationError,
    InferenceError,
    ModelNotFoundError,
    NoSuitableHandlerError,
    ResourceNotAvailableError,
)
from api_server.inference.catalogue import Catalogue, Model
from api_server.inference.conversations.factory import InferenceFactory
from api_server.inference.conversations.store import Conversations, MemoryConversations
from api_server.inference.engines import ENGINES, Engine
from api_server.inference.handlers.base import InferenceHandler, LoadedModel
from api_server.inference.handlers.openai_compatible import OpenAICompatibleHandler
from api_server.inference.managed_model import ModelStatus
from api_server.inference.model_manager import LLMModelManager
from api_server.inference.schemas import (
    GenerationParams,
    InferenceRequest,
    InferenceResponse,
    ToolCall,
)
from api_server.inference.service import LLMInferenceService
from api_server.inference.stop_sequences import StopScanner
from api_server.inference.tracking import StreamError

__all__ = [
    "ENGINES",
    "Catalogue",
    "ConfigurationError",
    "Conversations",
    "Engine",
    "GenerationParams",
    "InferenceError",
    "InferenceFactory",
    "InferenceHandler",
    "InferenceRequest",
    "InferenceResponse",
    "LLMInferenceService",
    "LLMModelManager",
    "LoadedModel",
    "MemoryConversations",
    "Model",
    "ModelNotFoundError",
    "ModelStatus",
    "NoSuitableHandlerError",
    "OpenAICompatibleHandler",
    "ResourceNotAvailableError",
    "StopScanner",
    "StreamError",
    "ToolCall",
]
