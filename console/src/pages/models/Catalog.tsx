import { useState } from "preact/hooks";
import { api } from "../../api/client";
import { ApiError } from "../../api/errors";
import type { Job, Page as Listed } from "../../api/types";
import { bytes, count, t } from "../../i18n";
import { hrefOf } from "../../state/route";
import { Button } from "../../ui/Button";
import { Confirm } from "../../ui/Dialog";
import { Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { SelectField, TextField } from "../../ui/Field";
import { Progress } from "../../ui/Progress";
import { type Column, Table } from "../../ui/Table";
import { toast, toastError } from "../../ui/Toast";
import { useLoad } from "../../ui/load";
import { Plan } from "./Plan";
import { type Pulls, usePulls } from "./pulls";
import { aboutOf, languageName, say } from "./say";
import { type CatalogModel, hasEnded } from "./types";
import { type Updates, UpdatesBar, useUpdates } from "./Updates";

type Shown = "all" | "here" | "missing";

interface Props {
  chosen: string | undefined;
  onOpen: (name?: string) => void;
  /** Called when a model has come that the server may now serve. */
  onServed: () => void;
}

/** What a row can do about its model. */
export interface PullActions {
  pull: (model: string) => void;
  cancel: (model: string) => void;
}

/** The models that can be fetched by name, with their pulls. */
export function Catalog({ chosen, onOpen, onServed }: Props) {
  const [words, setWords] = useState("");
  const [kind, setKind] = useState("");
  const [shown, setShown] = useState<Shown>("all");
  const [ending, setEnding] = useState("");
  const { data, error, reload } = useLoad(
    (signal) => api<Listed<CatalogModel>>("/v1/catalog", { query: { limit: 100 }, signal }),
    [],
  );
  const pulls = usePulls(() => {
    reload();
    onServed();
  });
  const updates = useUpdates();
  const actions: PullActions = {
    pull: (model) => void pulls.start(model).catch(toastError),
    cancel: setEnding,
  };
  const cancel = async (model: string) => {
    try {
      await pulls.cancel(model);
      toast(say("pull.cancelled"));
    } catch (failure) {
      toastError(failure);
    }
  };
  if (error instanceof ApiError && error.status === 404) {
    return <Empty icon="models" title={say("catalog.off")} text={say("catalog.off.text")} commands={["deepwell pull smollm2"]} />;
  }
  const models = data?.data ?? [];
  const rows = models.filter((one) => matches(one, words, kind, shown));
  const opened = models.find((one) => one.id === chosen);
  return (
    <>
      {error !== null && <Failure error={error} onRetry={reload} />}
      {pulls.error !== null && <Failure error={pulls.error} />}
      {data && (
        <>
          <UpdatesBar updates={updates} />
          <div class="row models-filters">
            <TextField label={say("filter.words")} type="search" value={words} onInput={setWords} />
            <SelectField
              label={say("filter.kind")}
              value={kind}
              onChange={setKind}
              choices={[
                { value: "", label: say("filter.all") },
                { value: "chat", label: say("kind.chat") },
                { value: "embedding", label: say("kind.embedding") },
              ]}
            />
            <SelectField
              label={say("filter.shown")}
              value={shown}
              onChange={setShown}
              choices={[
                { value: "all", label: say("filter.all") },
                { value: "here", label: say("state.here") },
                { value: "missing", label: say("state.missing") },
              ]}
            />
          </div>
          <Table
            label={say("tab.catalog")}
            columns={columns(pulls, actions, updates)}
            rows={rows}
            id={(model) => model.id}
            onOpen={(model) => onOpen(model.id)}
            selected={chosen}
            empty={<p class="muted">{say("catalog.none")}</p>}
          />
        </>
      )}
      {opened && (
        <Plan key={opened.id} model={opened} job={pulls.of(opened.id)} update={updates.of(opened.id)} actions={actions} onClose={() => onOpen()} />
      )}
      {ending !== "" && (
        <Confirm
          title={say("pull.ask", { name: ending })}
          text={say("pull.text")}
          action={say("pull.cancel")}
          dismiss={t("action.keep")}
          onYes={() => void cancel(ending)}
          onClose={() => setEnding("")}
        />
      )}
    </>
  );
}

/** Whether a model is asked for: all words stand in its name, its description, its licence or its languages. */
export function matches(model: CatalogModel, words: string, kind: string, shown: Shown): boolean {
  if (kind !== "" && model.kind !== kind) return false;
  if (shown !== "all" && model.downloaded !== (shown === "here")) return false;
  const text = [model.id, model.description, model.license, ...model.languages, ...model.languages.map(languageName)];
  const whole = text.join(" ").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => whole.includes(word));
}

function columns(pulls: Pulls, actions: PullActions, updates: Updates): Column<CatalogModel>[] {
  return [
    {
      name: "model",
      title: say("column.model"),
      cell: (model) => (
        <span class="models-entry">
          <span>{model.id}</span>
          <span class="muted small wide-only">{aboutOf(model)}</span>
          <span class="muted small models-short">{sizes(model)}</span>
        </span>
      ),
    },
    {
      name: "parameters",
      title: say("column.parameters"),
      cell: (model) => (model.parameters === null ? "" : parameters(model.parameters)),
      number: true,
      wide: true,
    },
    {
      name: "download",
      title: say("column.download"),
      cell: (model) => (model.download_bytes === null ? "" : bytes(model.download_bytes)),
      number: true,
      wide: true,
    },
    {
      name: "memory",
      title: say("column.memory"),
      cell: (model) => (model.memory_bytes === null ? "" : bytes(model.memory_bytes)),
      number: true,
      wide: true,
    },
    { name: "license", title: say("column.license"), cell: (model) => model.license, wide: true },
    {
      name: "state",
      title: say("column.state"),
      cell: (model) => (
        <span class="models-name">
          <PullState model={model} job={pulls.of(model.id)} actions={actions} />
          {updates.of(model.id) && <span class="badge warn">{say("updates.new")}</span>}
        </span>
      ),
    },
  ];
}

/** The sizes of a model in one line, where there is no room for columns. */
function sizes(model: CatalogModel): string {
  const known: string[] = [];
  if (model.parameters !== null) known.push(parameters(model.parameters));
  if (model.download_bytes !== null) known.push(bytes(model.download_bytes));
  return known.join(" · ");
}

/** How many parameters a model has: 135 M, 1.5 B. */
export function parameters(many: number): string {
  if (many >= 1e9) return `${count(many / 1e9, 1)} B`;
  return `${count(many / 1e6)} M`;
}

/** Where a model is: here, on its way, or to be fetched. */
export function PullState(props: { model: CatalogModel; job: Job | undefined; actions: PullActions; wide?: boolean }) {
  const { model, job, actions, wide = false } = props;
  if (job !== undefined && !hasEnded(job)) {
    return (
      <span class="models-pull">
        {job.status === "queued" ? (
          <span class="muted">{say("pull.queued")}</span>
        ) : (
          <Progress label={say("pull.progress", { name: model.id })} {...known(job)} text={wide ? received(job) : undefined} />
        )}
        {job.cancel_requested ? (
          <span class="muted small">{say("pull.ending")}</span>
        ) : (
          <Button small kind="quiet" icon="close" label={say("pull.cancel.of", { name: model.id })} onClick={() => actions.cancel(model.id)} />
        )}
      </span>
    );
  }
  if (model.served) return <span class="badge good">{say("state.served")}</span>;
  if (model.downloaded) return <span class="badge accent">{say("state.here")}</span>;
  return (
    <span class="models-fetch">
      <Button small icon="download" onClick={() => actions.pull(model.id)} class={wide ? "primary" : undefined}>
        {job === undefined ? say("pull") : say("pull.resume")}
        <span class="unseen"> {model.id}</span>
      </Button>
      {job?.status === "failed" &&
        (wide ? (
          <span class="field-error">{job.error}</span>
        ) : (
          <a class="small models-failed" href={hrefOf("models", "catalog", model.id)}>
            {say("pull.failed")}
          </a>
        ))}
    </span>
  );
}

function known(job: Job): { done?: number; total?: number } {
  const { done, total } = job.progress ?? {};
  return { ...(typeof done === "number" && { done }), ...(typeof total === "number" && { total }) };
}

/** What has come of a pull: "25 MB of 98 MB". */
function received(job: Job): string {
  const { done, total } = known(job);
  if (done === undefined) return t("shell.loading");
  return total === undefined ? bytes(done) : say("pull.received", { done: bytes(done), total: bytes(total) });
}
