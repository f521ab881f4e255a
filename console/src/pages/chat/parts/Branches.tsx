import { Button } from "../../../ui/Button";
import * as session from "../model/session";
import { say } from "../say";

/** The switch between the branches at a message: ‹ 2 / 3 ›. */
export function Branches({ id }: { id: string }) {
  const { place, count } = session.branchOf(id);
  if (count < 2) return null;
  return (
    <span class="branches">
      <Button
        kind="quiet"
        small
        icon="left"
        label={say("branch.before")}
        disabled={place === 0}
        onClick={() => session.turn(id, -1)}
      />
      <span class="small">{say("branch.place", { place: place + 1, count })}</span>
      <Button
        kind="quiet"
        small
        icon="right"
        label={say("branch.next")}
        disabled={place === count - 1}
        onClick={() => session.turn(id, 1)}
      />
    </span>
  );
}
