import { perSeat } from "./seats.mjs";

await perSeat(async (client, seat) => {
  const listed = [];
  for await (const model of client.models.list()) listed.push(model.id);
  const slashed = await client.models.retrieve("openai/gpt-oss-120b");
  return { listed, slashed: [slashed.id, slashed.owned_by, slashed.object] };
});
