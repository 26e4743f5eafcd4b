import OpenAI from "openai";
import { open, perSeat } from "./seats.mjs";

const CLASSES = Object.entries(OpenAI).filter(([name]) => name.endsWith("Error"));

function described(error) {
  return {
    class: CLASSES.find(([, kind]) => error.constructor === kind)?.[0] ?? error.constructor.name,
    api: error instanceof OpenAI.APIError,
    status: error.status ?? null,
    code: error.code ?? null,
    param: error.param ?? null,
    type: error.type ?? null,
    id: error.requestID ?? null,
    retryAfter: error.headers?.get("retry-after") ?? null,
  };
}

async function caught(promise) {
  try {
    await promise;
  } catch (error) {
    return described(error);
  }
  return null;
}

async function consumed(stream, seen) {
  for await (const chunk of await stream) seen.text += chunk.choices[0].delta.content ?? "";
}

await perSeat(async (client, seat) => {
  const messages = [{ role: "user", content: seat.prompt }];
  const ask = (more, by = client) => by.chat.completions.create({ model: seat.model, messages, ...more });
  const fault = (name) => ({ model: `${seat.prefix}fault-${name}` });
  const found = {
    key: await caught(ask({}, open({ ...seat, api_key: "lgw_project_wrong" }))),
    model: await caught(ask({ model: "nobodys-model" })),
    streamedModel: await caught(ask({ model: "nobodys-model", stream: true })),
    request: await caught(ask({ temperature: 3 })),
    limit: await caught(ask(fault("429"))),
    refused: await caught(ask(fault("400"))),
    credentials: await caught(ask(fault("401"))),
    broken: await caught(ask({ ...fault("500"), stream: true })),
    overloaded: await caught(ask(fault("529"))),
    late: await caught(ask(fault("504"))),
    cuts: {},
    helperCuts: {},
  };
  for (const cut of ["reset@5", "close_early@5", "no_end_marker@5", "ok_with_error@5"]) {
    const seen = { text: "" };
    const error = await caught(consumed(ask({ ...fault(cut), stream: true }), seen));
    found.cuts[cut] = { ...error, text: seen.text };
    const helper = client.chat.completions.stream({ ...fault(cut), messages });
    found.helperCuts[cut] = await caught(helper.finalChatCompletion());
  }
  return found;
});
