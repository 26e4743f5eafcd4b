import { perSeat, told } from "./seats.mjs";

// Without an encoding_format this SDK asks for base64, and makes garbage of floats without a word.
const shape = (vector) => ({ length: vector.length, norm: Math.hypot(...vector) });
const same = (one, other) => one.length === other.length && one.every((number, place) => number === other[place]);

await perSeat(async (client, seat) => {
  const ask = (input, more = {}) =>
    client.embeddings.create({ model: seat.model, input, ...more }).withResponse();
  const first = await ask(seat.prompt);
  const second = await ask(seat.prompt);
  const floats = await ask(seat.prompt, { encoding_format: "float" });
  const batch = await ask([`${seat.prompt} Again.`, seat.prompt]);
  const vector = first.data.data[0].embedding;
  return {
    ...shape(vector),
    total: first.data.usage.total_tokens,
    same: [
      second.data.data[0].embedding,
      floats.data.data[0].embedding,
      batch.data.data[1].embedding,
    ].map((other) => same(vector, other)),
    other: shape(batch.data.data[0].embedding),
    told: [first, second, floats, batch].map(({ response }) => told(response)),
  };
});
