import type { en } from "./en";

export const zh: { [K in keyof typeof en]: string } = {
  lead: "在此之前，可以在终端用文件夹建立知识库。",
};
