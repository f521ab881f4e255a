import { useState } from "preact/hooks";
import { api } from "../../api/client";
import { collect } from "../../api/collect";
import { count, t, texts, time } from "../../i18n";
import { go } from "../../state/route";
import { Button } from "../../ui/Button";
import { Confirm } from "../../ui/Dialog";
import { Empty } from "../../ui/Empty";
import { Failure } from "../../ui/Failure";
import { Progress } from "../../ui/Progress";
import { type Column, Table } from "../../ui/Table";
import { toast, toastError } from "../../ui/Toast";
import { useLoad } from "../../ui/load";
import { en } from "./en";
import { Example, New } from "./New";
import { pathOf, PROJECTS, type Project } from "./types";
import { zh } from "./zh";

const say = texts(en, zh);
const STEP = 50;

/** All labelling projects, the newest first. */
export function Projects() {
  const [limit, setLimit] = useState(STEP);
  const [making, setMaking] = useState(false);
  const [deleting, setDeleting] = useState<Project | null>(null);
  const load = (signal: AbortSignal) => collect<Project>(PROJECTS, limit, { signal });
  const { data, error, loading, reload } = useLoad(load, [limit]);
  const projects = data?.data ?? [];
  const remove = async (project: Project) => {
    try {
      await api(pathOf(project.id), { method: "DELETE" });
      toast(say("deleted"));
      reload();
    } catch (failure) {
      toastError(failure);
    }
  };
  const make = (
    <Button kind="primary" icon="plus" onClick={() => setMaking(true)}>
      {say("new")}
    </Button>
  );
  return (
    <div class="page">
      <div class="page-head">
        <h1>{t("nav.labelling")}</h1>
        {projects.length > 0 && make}
      </div>
      {error !== null && <Failure error={error} onRetry={reload} />}
      {data && projects.length === 0 && (
        <Empty
          icon="labelling"
          title={say("empty.title")}
          text={say("empty.text")}
          commands={["deepwell data label texts.jsonl --classes good,bad"]}
        >
          {make}
          <Example />
        </Empty>
      )}
      {projects.length > 0 && (
        <Table
          label={say("projects")}
          columns={columns(setDeleting)}
          rows={projects}
          id={(project) => project.id}
          onOpen={(project) => go({ page: "labelling", rest: [project.id] })}
        />
      )}
      {data?.more && (
        <div class="row center">
          <Button busy={loading} onClick={() => setLimit(limit + STEP)}>
            {t("action.more")}
          </Button>
        </div>
      )}
      {making && (
        <New onClose={() => setMaking(false)} onMade={(project) => go({ page: "labelling", rest: [project.id] })} />
      )}
      {deleting && (
        <Confirm
          title={say("delete.title")}
          text={say("delete.text")}
          action={t("action.delete")}
          onYes={() => void remove(deleting)}
          onClose={() => setDeleting(null)}
        />
      )}
    </div>
  );
}

function columns(onDelete: (project: Project) => void): Column<Project>[] {
  return [
    { name: "name", title: say("column.name"), cell: (project) => project.name },
    { name: "progress", title: say("column.progress"), cell: (project) => <Amount project={project} /> },
    {
      name: "classes",
      title: say("column.classes"),
      cell: (project) => project.classes.map((one) => one.name).join(", "),
      wide: true,
    },
    { name: "created", title: say("column.created"), cell: (project) => time(project.created_at), wide: true },
    {
      name: "actions",
      title: "",
      cell: (project) => (
        <Button
          kind="quiet"
          small
          icon="trash"
          label={say("delete", { name: project.name })}
          onClick={() => onDelete(project)}
        />
      ),
      number: true,
    },
  ];
}

/** How many texts of a project are labelled. */
export function Amount({ project }: { project: Project }) {
  const text = say("progress.of", { done: count(project.labelled), total: count(project.items) });
  return <Progress label={say("progress")} done={project.labelled} total={project.items} text={text} />;
}
