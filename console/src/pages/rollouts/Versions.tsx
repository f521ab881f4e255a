import { useState } from "preact/hooks";
import { collect } from "../../api/collect";
import { count, t, time } from "../../i18n";
import { go } from "../../state/route";
import { Button } from "../../ui/Button";
import { Dialog } from "../../ui/Dialog";
import { Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { type Column, Table } from "../../ui/Table";
import { useLoad } from "../../ui/load";
import { Gates, Verdict } from "./Gates";
import { say } from "./say";
import type { Version } from "./types";
import { authorOf } from "./words";

const STEP = 50;

/** The versions of models, with what they were made from and what their gates say. `chosen` is the id of one. */
export function Versions({ alias, chosen }: { alias: string | undefined; chosen: string | undefined }) {
  const [limit, setLimit] = useState(STEP);
  const load = (signal: AbortSignal) => collect<Version>("/v1/registry/versions", limit, { query: { alias }, signal });
  const { data, error, loading, reload } = useLoad(load, [alias, limit]);
  if (error !== null) return <Failure error={error} onRetry={reload} />;
  if (data === undefined) return <p role="status">{t("shell.loading")}</p>;
  if (data.data.length === 0) {
    return (
      <Empty
        icon="rollouts"
        title={say("versions.none")}
        text={say("versions.none.text")}
        commands={["deepwell models register smollm2@prod NAME --artefact runs/support/adapter --parent smollm2"]}
      />
    );
  }
  const open = (id?: string) => go({ page: "rollouts", rest: id === undefined ? ["versions"] : ["versions", id] });
  const version = data.data.find((one) => one.id === chosen);
  return (
    <>
      <Table
        label={say("tab.versions")}
        columns={columns()}
        rows={data.data}
        id={(one) => one.id}
        onOpen={(one) => open(one.id)}
        selected={chosen}
      />
      {data.more && (
        <div class="row center">
          <Button busy={loading} onClick={() => setLimit(limit + STEP)}>
            {t("action.more")}
          </Button>
        </div>
      )}
      {version && <Detail version={version} onClose={() => open()} />}
    </>
  );
}

function columns(): Column<Version>[] {
  return [
    { name: "version", title: say("column.version"), cell: (one) => one.id },
    { name: "model", title: say("column.model"), cell: (one) => <span class="rollouts-words">{one.model}</span> },
    { name: "gates", title: say("column.gates"), cell: (one) => <Verdict report={one.gates} /> },
    {
      name: "now",
      title: say("column.now"),
      cell: (one) =>
        one.now !== null && <span class={`badge ${one.now === "serves" ? "good" : "accent"}`}>{say(`now.${one.now}`)}</span>,
    },
    { name: "parents", title: say("column.parents"), cell: (one) => one.parents.join(", "), wide: true },
    { name: "registered", title: say("column.registered"), cell: (one) => time(one.created_at), wide: true },
    { name: "by", title: say("column.by"), cell: (one) => authorOf(one.created_by), wide: true },
  ];
}

function Detail({ version, onClose }: { version: Version; onClose: () => void }) {
  const registered = say("version.registered.by", { at: time(version.created_at), by: authorOf(version.created_by) });
  const config = Object.keys(version.config).length > 0;
  return (
    <Dialog wide title={say("version.title", { id: version.id })} onClose={onClose}>
      <div class="stack">
        <Facts
          facts={[
            [say("version.model"), version.model],
            [say("version.registered"), registered],
            [say("version.parents"), version.parents.join(", ")],
            [say("version.artefact"), version.artefact],
            [say("version.hash"), version.artefact_sha256],
          ]}
        />
        <section>
          <h3>{say("version.gates")}</h3>
          {version.gates === null ? (
            <p class="muted">{say("version.gates.none")}</p>
          ) : (
            <Gates report={version.gates} label={say("version.gates")} />
          )}
        </section>
        <Numbers title={say("version.metrics")} values={version.metrics} />
        <Numbers title={say("version.data")} values={version.data} />
        {config && (
          <details>
            <summary>{say("version.config")}</summary>
            <pre class="rollouts-config">{JSON.stringify(version.config, null, 2)}</pre>
          </details>
        )}
      </div>
    </Dialog>
  );
}

function Numbers({ title, values }: { title: string; values: Record<string, unknown> }) {
  const facts = Object.entries(values).map(([name, value]): [string, string] => [name, shown(value)]);
  if (facts.length === 0) return null;
  return (
    <section>
      <h3>{title}</h3>
      <Facts facts={facts} />
    </section>
  );
}

function shown(value: unknown): string {
  if (typeof value === "number") return count(value, 4);
  return typeof value === "string" ? value : JSON.stringify(value);
}

function Facts({ facts }: { facts: readonly (readonly [string, string])[] }) {
  return (
    <dl class="rollouts-facts">
      {facts
        .filter(([, value]) => value !== "")
        .map(([name, value], place) => (
          <div key={`${name} ${place}`}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
    </dl>
  );
}
