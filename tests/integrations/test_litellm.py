"""The LiteLLM plugin, with the real package, against loopback servers: `make litellm-test`."""

from __future__ import annotations

import asyncio
import os

import pytest

from cr2fast import Cr2Error, OperatingPointError

# Prices from the package, not from the network.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
litellm = pytest.importorskip(
    "litellm", reason="litellm is large and slow to import: `make litellm-test` has it"
)

from cr2fast.integrations.litellm import Cr2fastRouting  # noqa: E402

# What the package itself warns of is not this test's.
pytestmark = pytest.mark.filterwarnings("ignore")


def chat(text):
    return [{"role": "user", "content": text}]


@pytest.fixture
def deployments(servers, text_router):
    device, edge = servers
    return [
        {
            "model_name": "cr2fast",
            "litellm_params": {
                "model": f"openai/{name}",
                "api_base": (edge if k else device).url,
                "api_key": "x",
            },
        }
        for k, name in enumerate(text_router.models)
    ]


def test_the_plugin_leaves_the_deployment_that_the_router_chooses(
    deployments, servers, texts, text_router, letters
):
    routing = Cr2fastRouting(text_router, letters, 0.1, 0.1)
    llm = litellm.Router(model_list=deployments, plugins=[routing])
    two = text_router.two_stage(0.1, 0.1)

    async def ask(text, **kwargs):
        return await llm.acompletion(model="cr2fast", messages=chat(text), **kwargs)

    async def run():
        for which, text in enumerate(texts):
            metadata = {}
            answer = await ask(text, metadata=metadata)
            assert answer.choices[0].message.content == servers[which].text
            sent = servers[which].requests[-1][2]["model"]
            choice = two.route_text(text, letters, n_input_tokens=letters.count_tokens(text))
            assert sent == choice.model
            stream = await ask(text, stream=True)
            said = [c.choices[0].delta.content or "" async for c in stream]
            assert "".join(said).strip() == servers[which].text

    asyncio.run(run())


def test_as_a_custom_strategy_it_routes_synchronous_calls_too(
    deployments, servers, texts, text_router, letters
):
    llm = litellm.Router(model_list=deployments)
    strategy = Cr2fastRouting(text_router, letters, 0.1, 0.1, deployments=llm)
    getattr(llm, "register_plugin", llm.set_custom_routing_strategy)(strategy)
    for which, text in enumerate(texts):
        answer = llm.completion(model="cr2fast", messages=chat(text))
        assert answer.choices[0].message.content == servers[which].text
        answer = asyncio.run(llm.acompletion(model="cr2fast", messages=chat(text)))
        assert answer.choices[0].message.content == servers[which].text


def test_the_decision_is_told(deployments, texts, text_router, letters):
    llm = litellm.Router(model_list=deployments)
    strategy = Cr2fastRouting(text_router, letters, 0.1, 0.1, deployments=llm)
    kwargs = {}
    strategy.get_available_deployment("cr2fast", chat(texts[0]), request_kwargs=kwargs)
    assert kwargs["metadata"]["cr2fast"]["x-cr2fast-why"] == "accepted"


def test_what_is_wrong_is_said(deployments, texts, text_router, letters):
    with pytest.raises(OperatingPointError):
        Cr2fastRouting(text_router, letters, 0.7)
    alone = Cr2fastRouting(text_router, letters, 0.1, 0.1)
    with pytest.raises(Cr2Error, match="deployments: expected the litellm.Router"):
        alone.get_available_deployment("cr2fast", chat(texts[0]))
    llm = litellm.Router(model_list=deployments[1:])
    some = Cr2fastRouting(text_router, letters, 0.1, 0.1, deployments=llm)
    with pytest.raises(Cr2Error, match="expected a deployment of 'device-s'"):
        some.get_available_deployment("cr2fast", chat(texts[0]))
    with pytest.raises(Cr2Error, match="expected a group with deployments"):
        some.get_available_deployment("other", chat(texts[0]))
