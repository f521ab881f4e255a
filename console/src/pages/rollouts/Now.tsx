import { useState } from "preact/hooks";
import { api } from "../../api/client";
import { collect } from "../../api/collect";
import type { Page as Listed, Model } from "../../api/types";
import { count, percent, t, time } from "../../i18n";
import { Button } from "../../ui/Button";
import { Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { type Column, Table } from "../../ui/Table";
import { toast } from "../../ui/Toast";
import { useLoad } from "../../ui/load";
import { Canary } from "./Canary";
import { Decide } from "./Decide";
import { say } from "./say";
import { Start } from "./Start";
import type { Deployment, RegistryAlias, Rollout } from "./types";
import { authorOf, reasonOf } from "./words";

const LIVE_MS = 4000;
const MOST = 100;
const STEP = 20;
const KINDS: Record<string, string> = { promoted: "good", rolled_back: "bad", aborted: "warn", canary: "accent" };

/** What is served behind aliases, the roll-outs under way with their votes, and those that ended. */
export function Now({ alias, aliases, failed, onChange }: NowProps) {
  const [limit, setLimit] = useState(STEP);
  const [reverting, setReverting] = useState<RegistryAlias | null>(null);
  const load = (signal: AbortSignal) => collect<Rollout>("/v1/rollouts", limit, { query: { alias }, signal });
  const { data, error, loading, reload } = useLoad(load, [alias, limit], LIVE_MS);
  const models = useLoad((signal) => api<Listed<Model>>("/v1/models", { signal }), [], LIVE_MS);
  const names = models.data?.data.map((one) => one.id);
  const deployed = useLoad((signal) => api<Listed<Deployment>>("/v1/deployments", { query: { limit: 100 }, signal }), [], LIVE_MS);
  const driven = new Set(deployed.data?.data.map((one) => one.rollout?.id));
  const changed = () => {
    reload();
    onChange();
  };
  const problem = failed ?? error;
  if (problem !== null) return <Failure error={problem} onRetry={changed} />;
  if (aliases?.length === 0) {
    return (
      <Empty
        icon="rollouts"
        title={say("now.none")}
        text={say("now.none.text")}
        commands={["deepwell models alias set smollm2@prod smollm2"]}
      />
    );
  }
  if (aliases === undefined || data === undefined) return <p role="status">{t("shell.loading")}</p>;
  const shown = aliases.filter((one) => alias === undefined || one.id === alias);
  const open = data.data.filter((one) => one.state === "canary");
  const ended = data.data.filter((one) => one.state !== "canary");
  const revert = async (one: RegistryAlias, reason: string) => {
    const now = await api<RegistryAlias>("/v1/registry/revert", { body: { alias: one.id, reason } });
    toast(say("revert.done", { alias: one.id, model: now.model }));
    changed();
  };
  return (
    <div class="stack">
      <section class="stack">
        <h2>{say("now.canaries")}</h2>
        {open.map((one) => (
          <Canary key={one.id} rollout={one} served={names?.includes(one.candidate) ?? true} driven={driven.has(one.id)} onChange={changed} />
        ))}
        {open.length === 0 && (
          <>
            <p class="muted">{say("now.quiet")}</p>
            <Start aliases={shown} onChange={changed} />
          </>
        )}
      </section>
      <section class="stack">
        <h2>{say("now.aliases")}</h2>
        <Table label={say("now.aliases")} columns={aliasColumns(setReverting)} rows={shown} id={(one) => one.id} />
      </section>
      {ended.length > 0 && (
        <section class="stack">
          <h2>{say("now.ended")}</h2>
          <Table label={say("now.ended")} columns={endedColumns()} rows={ended} id={(one) => one.id} />
        </section>
      )}
      {data.more && limit < MOST && (
        <div class="row center">
          <Button busy={loading} onClick={() => setLimit(Math.min(limit + STEP, MOST))}>
            {t("action.more")}
          </Button>
        </div>
      )}
      {reverting !== null && (
        <Decide
          title={say("revert.ask", { alias: reverting.id })}
          text={say("revert.text", { alias: reverting.id, undo: reverting.undo ?? "", model: reverting.model })}
          action={say("revert")}
          danger
          onYes={(reason) => revert(reverting, reason)}
          onClose={() => setReverting(null)}
        />
      )}
    </div>
  );
}

export interface NowProps {
  alias: string | undefined;
  aliases: readonly RegistryAlias[] | undefined;
  failed: unknown;
  onChange: () => void;
}

/** The name of an alias that a shell takes as it is. */
function aliasColumns(onRevert: (alias: RegistryAlias) => void): Column<RegistryAlias>[] {
  return [
    { name: "alias", title: say("column.alias"), cell: (one) => <span class="rollouts-words">{one.id}</span> },
    { name: "model", title: say("column.model"), cell: (one) => <span class="rollouts-words">{one.model}</span> },
    {
      name: "canary",
      title: say("column.canary"),
      cell: (one) => one.candidate && <span class="rollouts-words">{`${one.candidate} (${percent(one.share ?? 0)})`}</span>,
    },
    { name: "versions", title: say("column.versions"), cell: (one) => count(one.versions), number: true, wide: true },
    { name: "changed", title: say("column.changed"), cell: (one) => time(one.changed_at), wide: true },
    {
      name: say("column.actions"),
      title: "",
      cell: (one) =>
        one.undo !== null && (
          <Button small label={say("revert.of", { name: one.id })} onClick={() => onRevert(one)}>
            {say("revert")}
          </Button>
        ),
      number: true,
    },
  ];
}

function endedColumns(): Column<Rollout>[] {
  return [
    { name: "version", title: say("column.version"), cell: (one) => <span class="rollouts-words">{one.version}</span> },
    { name: "outcome", title: say("column.outcome"), cell: (one) => <State name={one.state} /> },
    { name: "ended", title: say("column.ended"), cell: (one) => one.ended_at !== null && time(one.ended_at), wide: true },
    { name: "by", title: say("column.by"), cell: (one) => authorOf(one.ended_by), wide: true },
    { name: "reason", title: say("column.reason"), cell: (one) => <span class="rollouts-words">{reasonOf(one)}</span> },
  ];
}

const STATES = ["canary", "promoted", "rolled_back", "aborted", "refused"] as const;

/** The state of a roll-out, or the outcome of a round, in words with the colour of its kind. */
export function State({ name }: { name: string }) {
  const known = STATES.find((one) => one === name);
  const kind = name === "refused" ? "bad" : (KINDS[name] ?? "");
  return <span class={`badge ${kind}`}>{known === undefined ? name : say(`state.${known}`)}</span>;
}
