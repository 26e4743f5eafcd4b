import { perSeat, told } from "./seats.mjs";

await perSeat(async (client, seat) => {
  const body = { model: seat.model, prompt: seat.prompt, max_tokens: 100 };
  const plain = await client.completions.create(body).withResponse();
  const stream = await client.completions.create({ ...body, stream: true }).withResponse();
  let streamed = "";
  for await (const chunk of stream.data) streamed += chunk.choices[0].text;
  return {
    text: plain.data.choices[0].text,
    total: plain.data.usage.total_tokens,
    streamed,
    told: [told(plain.response), told(stream.response)],
  };
});
