import { useState } from "preact/hooks";
import { api } from "../../api/client";
import { count, percent, time } from "../../i18n";
import { Button } from "../../ui/Button";
import { Command } from "../../ui/Empty";
import { Table } from "../../ui/Table";
import { toast } from "../../ui/Toast";
import { Decide } from "./Decide";
import { say } from "./say";
import type { Rollout, Votes } from "./types";
import { authorOf, marginOf, points } from "./words";

const SAFE_NAME = /^[\w.:@/-]+$/;

export interface CanaryProps {
  rollout: Rollout;
  /** Whether this server serves the candidate. */
  served: boolean;
  /** Whether a deployment of this machine takes its steps, and serves both sides. */
  driven: boolean;
  onChange: () => void;
}

/** A roll-out under way: its votes by side, the sequential interval, and what can be done about it. */
export function Canary({ rollout, served, driven, onChange }: CanaryProps) {
  const [deciding, setDeciding] = useState<"promote" | "abort" | null>(null);
  const { alias, candidate, current } = rollout;
  const decide = async (verb: "promote" | "abort", reason: string) => {
    const path = `/v1/rollouts/${encodeURIComponent(rollout.id)}/${verb}`;
    await api<Rollout>(path, { body: { reason } });
    toast(say(`${verb}.done`, { alias, model: verb === "promote" ? candidate : current }));
    onChange();
  };
  return (
    <article class="card rollouts-canary" aria-label={rollout.version}>
      <header class="row">
        <div class="grow">
          <h3>{rollout.version}</h3>
          <p>{say("canary.for", { candidate, share: percent(rollout.share) })}</p>
          <p class="muted small">
            {say("canary.since", { at: time(rollout.started_at), by: authorOf(rollout.started_by) })}
          </p>
        </div>
        <Button kind="primary" label={say("promote.of", { name: rollout.version })} onClick={() => setDeciding("promote")}>
          {say("promote")}
        </Button>
        <Button label={say("abort.of", { name: rollout.version })} onClick={() => setDeciding("abort")}>
          {say("abort")}
        </Button>
      </header>
      {driven && (
        <p>
          {say("canary.driven")} <a href="#/rollouts/deployments">{say("tab.deployments")}</a>
        </p>
      )}
      {!served && !driven && <p class="rollouts-warning">{say("canary.unserved", { candidate, current })}</p>}
      {rollout.reason !== "" && <p class="rollouts-warning">{say("canary.undone", { reason: rollout.reason })}</p>}
      {rollout.votes && <Sides rollout={rollout} votes={rollout.votes} driven={driven} />}
      {deciding !== null && (
        <Decide
          title={say(`${deciding}.ask`, { candidate })}
          text={say(`${deciding}.text`, { alias, candidate, current })}
          action={say(deciding)}
          danger={deciding === "abort"}
          onYes={(reason) => decide(deciding, reason)}
          onClose={() => setDeciding(null)}
        />
      )}
    </article>
  );
}

function Sides({ rollout, votes, driven }: { rollout: Rollout; votes: Votes; driven: boolean }) {
  const rows = [
    { ...votes.current, name: say("side.current", { share: percent(1 - rollout.share) }) },
    { ...votes.candidate, name: say("side.candidate", { share: percent(rollout.share) }) },
  ];
  return (
    <>
      <Table
        label={say("canary.votes")}
        rows={rows}
        id={(side) => side.name}
        columns={[
          { name: "side", title: say("column.side"), cell: (side) => side.name },
          { name: "model", title: say("column.model"), cell: (side) => side.model, wide: true },
          { name: "users", title: say("column.users"), cell: (side) => count(side.users), number: true },
          {
            name: "approve",
            title: say("column.approve"),
            cell: (side) => (side.users === 0 ? "–" : percent(side.good / side.users)),
            number: true,
          },
        ]}
      />
      {votes.without_user > 0 && (
        <p class="muted small">{say("canary.unknown", { count: count(votes.without_user) })}</p>
      )}
      {votes.unverified > 0 && (
        <p class="muted small">{say("canary.unverified", { count: count(votes.unverified) })}</p>
      )}
      <Interval rollout={rollout} votes={votes} />
      <p role="status">
        <span class={`badge ${{ promote: "good", roll_back: "bad", wait: "" }[votes.action] ?? ""}`}>{verdictOf(rollout, votes)}</span>
      </p>
      {!driven && SAFE_NAME.test(rollout.alias) && (
        <>
          <p class="muted small">{say("verdict.judge")}</p>
          <Command text={`deepwell rollout judge ${rollout.alias}`} />
        </>
      )}
    </>
  );
}

function verdictOf(rollout: Rollout, votes: Votes): string {
  if (votes.action === "roll_back") {
    return say(votes.evidence_worse >= votes.evidence_needed ? "verdict.roll_back" : "verdict.undecided");
  }
  return say(votes.action === "promote" ? "verdict.promote" : "verdict.wait", { margin: marginOf(rollout) });
}

/** The differences that the votes leave possible, on a line from -100 to +100 points. */
function Interval({ rollout, votes }: { rollout: Rollout; votes: Votes }) {
  const open = votes.low <= -1 && votes.high >= 1;
  const margin = rollout.plan.margin ?? 0;
  const at = (difference: number) => `${50 + 50 * Math.max(-1, Math.min(1, difference))}%`;
  return (
    <div class="rollouts-interval">
      <p>
        <b>{say("canary.interval")}</b>{" "}
        {open
          ? say("canary.interval.none")
          : say("canary.interval.text", { low: points(votes.low), high: points(votes.high) })}
      </p>
      <div class="rollouts-line" aria-hidden="true">
        <span class={`rollouts-span ${votes.action}`} style={{ left: at(votes.low), width: `${50 * (votes.high - votes.low)}%` }} />
        <span class="rollouts-zero" />
        <span class="rollouts-margin" style={{ left: at(-margin) }} />
      </div>
      <div class="rollouts-scale muted small" aria-hidden="true">
        <span>−100</span>
        <span>0</span>
        <span>+100</span>
      </div>
      <p class="muted small">{say("canary.interval.help", { margin: points(-margin) })}</p>
    </div>
  );
}
