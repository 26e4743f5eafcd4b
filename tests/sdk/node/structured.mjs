import { makeParseableResponseFormat } from "openai/lib/parser";
import { perSeat, told } from "./seats.mjs";

const response_format = makeParseableResponseFormat(
  {
    type: "json_schema",
    json_schema: {
      name: "forecast",
      strict: true,
      schema: {
        type: "object",
        properties: { zone: { type: "string" }, days: { type: "array", items: { type: "integer" } } },
        required: ["zone", "days"],
        additionalProperties: false,
      },
    },
  },
  JSON.parse,
);

await perSeat(async (client, seat) => {
  const body = { model: seat.model, messages: [{ role: "user", content: seat.prompt }], response_format };
  const found = [];
  for (let turn = 0; turn < 2; turn++) {
    const { data, response } = await client.chat.completions.create(body).withResponse();
    const parsed = await client.chat.completions.parse(body);
    const stream = await client.chat.completions.stream(body).finalChatCompletion();
    found.push({
      cached: told(response)["x-watchllm-cached"],
      text: data.choices[0].message.content,
      parsed: parsed.choices[0].message.parsed,
      streamed: stream.choices[0].message.parsed,
    });
  }
  return found;
});
