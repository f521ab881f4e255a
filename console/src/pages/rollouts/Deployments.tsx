import { useState } from "preact/hooks";
import { api } from "../../api/client";
import type { Page as Listed } from "../../api/types";
import { count, percent, t, time } from "../../i18n";
import { Button } from "../../ui/Button";
import { Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { type Column, Table } from "../../ui/Table";
import { toast } from "../../ui/Toast";
import { useLoad } from "../../ui/load";
import { Decide } from "./Decide";
import { say } from "./say";
import { Start } from "./Start";
import type { Deployed, Deployment, Finding, Rollout } from "./types";

const LIVE_MS = 2000;

/** The deployments of the server's machine: their parts, and the roll-out that each drives. */
export function Deployments({ alias }: { alias: string | undefined }) {
  const load = (signal: AbortSignal) => api<Listed<Deployment>>("/v1/deployments", { query: { order: "asc", limit: 100 }, signal });
  const { data, error, reload } = useLoad(load, [], LIVE_MS);
  if (error !== null) return <Failure error={error} onRetry={reload} />;
  if (data === undefined) return <p role="status">{t("shell.loading")}</p>;
  const shown = data.data.filter((one) => alias === undefined || one.alias === alias);
  if (shown.length === 0) {
    return (
      <Empty
        icon="rollouts"
        title={say("deployments.none")}
        text={say("deployments.none.text")}
        commands={["deepwell deploy apply deploy.yaml", "deepwell deploy status"]}
      />
    );
  }
  return (
    <div class="stack">
      {shown.map((one) => (
        <One key={one.id} deployment={one} onChange={reload} />
      ))}
    </div>
  );
}

function One({ deployment, onChange }: { deployment: Deployment; onChange: () => void }) {
  const { id, alias, model, grade, rollout, url } = deployment;
  return (
    <article class="card rollouts-canary" aria-label={id}>
      <header class="row">
        <div class="grow">
          <h3>{id}</h3>
          {model === null ? (
            <p class="muted">{say("deployments.starts")}</p>
          ) : (
            <p>{say("deployments.means", { alias, model, grade: gradeOf(grade), at: time(deployment.started_at) })}</p>
          )}
          {url !== null && <p class="muted small">{url}</p>}
        </div>
      </header>
      {rollout === null ? (
        <>
          <p class="muted">{say("deployments.quiet")}</p>
          {model !== null && <Start aliases={[{ id: alias }]} onChange={onChange} />}
        </>
      ) : (
        <Driven rollout={rollout} deployment={deployment} onChange={onChange} />
      )}
      <Table label={say("deployments.parts", { name: id })} columns={partColumns()} rows={partsOf(deployment)} id={(one) => one.name} />
    </article>
  );
}

interface DrivenProps {
  rollout: Deployed;
  deployment: Deployment;
  onChange: () => void;
}

function Driven({ rollout, deployment, onChange }: DrivenProps) {
  const [deciding, setDeciding] = useState<"promote" | "abort" | null>(null);
  const { version, share, steps } = rollout;
  const { alias } = deployment;
  const current = deployment.model ?? "";
  const decide = async (verb: "promote" | "abort", reason: string) => {
    const made = await api<Rollout>(`/v1/rollouts/${encodeURIComponent(rollout.id)}/${verb}`, { body: { reason } });
    toast(say(`${verb}.done`, { alias, model: verb === "promote" ? made.candidate : made.current }));
    onChange();
  };
  return (
    <>
      <div class="row rollouts-driven">
        <p class="grow">
          <b>{say("deployments.share", { share: percent(share), version })}</b>
        </p>
        <Button kind="primary" label={say("promote.of", { name: version })} onClick={() => setDeciding("promote")}>
          {say("promote")}
        </Button>
        <Button label={say("abort.of", { name: version })} onClick={() => setDeciding("abort")}>
          {say("abort")}
        </Button>
      </div>
      {steps !== null && (
        <ol class="rollouts-stages" aria-label={say("deployments.steps", { version })}>
          {steps.map((one) => (
            <li key={one} class={one < share ? "done" : undefined} aria-current={one === share ? "step" : undefined}>
              {percent(one)}
            </li>
          ))}
        </ol>
      )}
      {rollout.next !== "" && (
        <p class="muted" role="status">
          {say("deployments.next", { what: nextOf(rollout.next) })}
        </p>
      )}
      {rollout.gates.length > 0 && (
        <Table label={say("deployments.gates", { version })} columns={gateColumns()} rows={rollout.gates} id={(one) => one.name} />
      )}
      {deciding !== null && (
        <Decide
          title={say(`${deciding}.ask`, { candidate: version })}
          text={say(`${deciding}.text`, { alias, candidate: version, current })}
          action={say(deciding)}
          danger={deciding === "abort"}
          onYes={(reason) => decide(deciding, reason)}
          onClose={() => setDeciding(null)}
        />
      )}
    </>
  );
}

interface Part {
  name: string;
  release: string;
  state: string;
  restarts: number;
}

function partsOf({ front, slots }: Deployment): Part[] {
  const parts = slots.flatMap(({ release, role, replicas }) =>
    replicas.map((one) => ({ ...one, release: release === null ? "" : `${release} (${roleOf(role)})` })),
  );
  return front === null ? parts : [{ ...front, release: "" }, ...parts];
}

function partColumns(): Column<Part>[] {
  return [
    { name: "part", title: say("column.part"), cell: (one) => one.name },
    { name: "release", title: say("column.release"), cell: (one) => <span class="rollouts-words">{one.release}</span> },
    { name: "state", title: say("column.state"), cell: (one) => <span class={`badge ${KINDS[one.state] ?? ""}`}>{stateOf(one.state)}</span> },
    { name: "restarts", title: say("column.restarts"), cell: (one) => count(one.restarts), number: true, wide: true },
  ];
}

function gateColumns(): Column<Finding>[] {
  return [
    { name: "gate", title: say("column.gate"), cell: (one) => figureOf(one.name) },
    { name: "current", title: say("column.current"), cell: (one) => shown(one.name, one.current), number: true },
    { name: "candidate", title: say("column.candidate"), cell: (one) => shown(one.name, one.candidate), number: true },
    { name: "most", title: say("column.most"), cell: (one) => shown(one.name, one.bound), number: true, wide: true },
    {
      name: "now",
      title: say("column.now"),
      cell: (one) => <span class={`badge ${badgeOf(one)}`}>{say(verdictOf(one))}</span>,
    },
  ];
}

function verdictOf(one: Finding): "gates.passed" | "gates.refused" | "gates.unseen" {
  if (!one.holds) return "gates.refused";
  return one.candidate === null ? "gates.unseen" : "gates.passed";
}

function badgeOf(one: Finding): string {
  if (!one.holds) return "bad";
  return one.candidate === null ? "" : "good";
}

const KINDS: Record<string, string> = { ready: "good", failed: "bad", restarting: "warn", starting: "accent" };
const STATES = ["ready", "starting", "restarting", "failed", "stopping", "stopped"] as const;
const ROLES = ["current", "candidate", "retiring", "draining", "stopping"] as const;
const FIGURES = ["error_rate", "refusal_rate", "guard_rate", "first_token_p95_ms"] as const;
const GRADES = ["machine", "containers", "mesh"] as const;

function stateOf(name: string): string {
  const known = STATES.find((one) => one === name);
  return known === undefined ? name : say(`replica.${known}`);
}

function roleOf(name: string): string {
  const known = ROLES.find((one) => one === name);
  return known === undefined ? name : say(`role.${known}`);
}

function figureOf(name: string): string {
  const known = FIGURES.find((one) => one === name);
  return known === undefined ? name : say(`figure.${known}`);
}

function gradeOf(name: string | null): string {
  const known = GRADES.find((one) => one === name);
  return known === undefined ? (name ?? "") : say(`grade.${known}`);
}

function shown(name: string, value: number | null): string {
  if (value === null) return "–";
  return name.endsWith("_ms") ? `${count(value, 0)} ms` : percent(value);
}

/** What a roll-out waits for, in the language shown: the supervisor's own words are English. */
function nextOf(words: string): string {
  const [number] = words.match(/\d+/) ?? ["0"];
  if (words.startsWith("the next step is in")) return say("next.step", { seconds: number });
  if (/more answers? of the candidate/.test(words)) return say("next.answers", { count: number });
  if (words.includes("replicas start")) return say("next.starts");
  if (words.startsWith("the next step is taken")) return say("next.taken");
  if (words.startsWith("its share was given once")) return say("next.votes");
  if (words.startsWith("the evaluation is under way")) return say("next.evaluation");
  return words;
}
