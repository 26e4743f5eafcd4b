import { perSeat, told } from "./seats.mjs";

const parameters = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "get_weather", parameters } }];

async function roundTrip(client, seat, ask) {
  const messages = [{ role: "user", content: seat.prompt }];
  const first = await ask({ model: seat.model, messages, tools });
  const { message, finish_reason } = first.data.choices[0];
  const [call] = message.tool_calls;
  messages.push(message, { role: "tool", tool_call_id: call.id, content: '{"sky":"blue"}' });
  const last = await ask({ model: seat.model, messages, tools });
  return {
    finish: finish_reason,
    calls: message.tool_calls.length,
    id: call.id,
    name: call.function.name,
    arguments: JSON.parse(call.function.arguments),
    text: last.data.choices[0].message.content,
    cached: [first.cached, last.cached],
  };
}

// The helper that calls the caller's own function and goes on until the model has spoken.
async function run(client, seat) {
  const given = [];
  const runner = client.chat.completions.runTools({
    model: seat.model,
    messages: [{ role: "user", content: seat.prompt }],
    stream: true,
    tools: [
      {
        type: "function",
        function: {
          name: "get_weather",
          parameters,
          parse: JSON.parse,
          function: (city) => (given.push(city), "rain"),
        },
      },
    ],
  });
  return { text: await runner.finalContent(), given };
}

await perSeat(async (client, seat) => {
  const plain = async (body) => {
    const { data, response } = await client.chat.completions.create(body).withResponse();
    return { data, cached: told(response)["x-watchllm-cached"] };
  };
  const streamed = async (body) => ({ data: await client.chat.completions.stream(body).finalChatCompletion() });
  return {
    first: await roundTrip(client, seat, plain),
    second: await roundTrip(client, seat, plain),
    replayed: await roundTrip(client, seat, streamed),
    streamed: await roundTrip(client, { ...seat, prompt: `${seat.prompt} Stream.` }, streamed),
    run: await run(client, { ...seat, prompt: `${seat.prompt} Run.` }),
  };
});
